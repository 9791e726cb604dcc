-- cancel_run: the request to unwind, recorded once. run, kind, reason, data
ops.cancel_run = function(a)
  local f = load_run(a[1], 'status', 'away', 'cancel_us')
  if not f then
    return NOT_FOUND
  end
  if FINAL[f.status] then
    return SETTLED
  end
  if not f.cancel_us then
    request_cancel(a[1], f, a[2], a[3], a[4])
  end
  return OK
end
