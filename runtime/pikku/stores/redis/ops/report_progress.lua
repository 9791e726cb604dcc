-- report_progress: what a running attempt says of itself. run, key, attempt, progress
ops.report_progress = function(a)
  local s = load_step(a[1], a[2])
  if not s then
    return NOT_FOUND
  end
  if not executes(s, tonumber(a[3])) then
    return FENCED
  end
  s.progress = a[4]
  save_step(a[1], a[2], s)
  return OK
end
