-- begin_step: the body of a claimed job begins. run, key, attempt
ops.begin_step = function(a)
  local s = load_step(a[1], a[2])
  if not s then
    return NOT_FOUND
  end
  if s.attempt ~= tonumber(a[3]) or s.worker ~= session then
    return FENCED
  end
  if s.status == RUNNING then
    return OK
  end
  if s.status ~= SCHEDULED then
    return FENCED
  end
  s.status, s.started, s.outcome = RUNNING, now(), ''
  save_step(a[1], a[2], s)
  return OK
end
