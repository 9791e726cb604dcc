-- watch_run: the session wants to know how the run ends. run
ops.watch_run = function(a)
  local f = load_run(a[1], 'status', 'watchers')
  if not f then
    return NOT_FOUND
  end
  if FINAL[f.status] then
    return { SETTLED, call('HGETALL', run_key(a[1])) }
  end
  local watchers = f.watchers or ''
  if not string.find(' ' .. watchers .. ' ', ' ' .. session .. ' ', 1, true) then
    call('HSET', run_key(a[1]), 'watchers', watchers == '' and session or watchers .. ' ' .. session)
  end
  return OK
end
