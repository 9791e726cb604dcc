-- cancel_run: the request to unwind, recorded once. run, kind, reason, data, the error of a
-- suspended run that ends at once ('': it unwinds), retention (us, 0: for ever)
local function end_by_force(a, f)
  local run, reason = a[1], f.cancel_reason
  if not f.cancel_us then
    reason = a[3]
    call('HSET', run_key(run), 'cancel_us', now(), 'cancel_kind', a[2], 'cancel_reason', reason)
    append_history(run, 'cancel', nil, 0, a[4])
  end
  call('HSET', run_key(run), 'updated_us', now(), 'suspend_reason', '')
  settle(run, f, 'cancelled', '', a[5], '=' .. reason, '', '1', tonumber(a[6]))
end

ops.cancel_run = function(a)
  local f = load_run(a[1], 'status', 'away', 'cancel_us', 'cancel_reason', 'watchers', 'parent',
    'parent_step')
  if not f then
    return NOT_FOUND
  end
  if FINAL[f.status] then
    return SETTLED
  end
  if a[5] ~= '' and f.status == 'suspended' then
    end_by_force(a, f)
  elseif not f.cancel_us then
    request_cancel(a[1], f, a[2], a[3], a[4])
  end
  return OK
end
