-- release_step: a claimed job goes back to its queue; it counts as nothing.
-- run, key, attempt, wait_us (0: at once), retention
ops.release_step = function(a)
  local run, step_key, attempt = a[1], a[2], tonumber(a[3])
  local s = load_step(run, step_key)
  if not s then
    return NOT_FOUND
  end
  if s.attempt ~= attempt or s.worker ~= session or (s.status ~= RUNNING and s.status ~= SCHEDULED) then
    return FENCED
  end
  disown_job(session, run, step_key)
  free_lane(run, step_key, s)
  if s.status == RUNNING then
    append_history(run, 'handed_back', step_key, attempt, '')
    attempt = attempt + 1
  end
  retention = tonumber(a[5])
  local f = s.kind == JOB and load_run(run, 'status', 'cancel_us')
  if f and is_off(s, f.cancel_us) then
    conclude(run, f.status, step_key, s, FAILED)
  else
    put_back(run, step_key, s, tonumber(a[4]), attempt)
  end
  return OK
end
