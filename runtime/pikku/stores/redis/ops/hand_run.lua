-- hand_run: the run goes to another live session that can execute it. run, name*
ops.hand_run = function(a)
  local run = a[1]
  local f = load_run(run, 'status', 'owner')
  if not f then
    return NOT_FOUND
  end
  if f.owner ~= session then
    return FENCED
  end
  for i = 2, #a do
    for _, other in ipairs(call('HKEYS', holders_key(a[i]))) do
      if other ~= session and alive(other) then
        call('HSET', run_key(run), 'owner', other)
        call('HSET', own_key(other), 'r' .. run, 0)
        disown_run(session, run)
        post(other, run, HAND, 0, 0, 1, a[i], '')
        return OK
      end
    end
  end
  return NOBODY
end
