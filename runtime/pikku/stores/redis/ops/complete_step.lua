-- complete_step: an outcome from whoever holds the step's lease.
-- run, key, attempt, status (3 failed, 4 succeeded), outcome, retry_us (-1: none), forget, retention
ops.complete_step = function(a)
  local run, step_key, attempt, status, retry = a[1], a[2], tonumber(a[3]), tonumber(a[4]), tonumber(a[6])
  retention = tonumber(a[8])
  local forget = a[7] == '1' and status == SUCCEEDED
  local f = load_run(run, 'status', 'cancel_us', unpack(forget and TOLD_AND_FORGOTTEN or {}))
  local s = f and load_step(run, step_key)
  if not s then
    return a[7] == '1' and OK or NOT_FOUND
  end
  if s.attempt == attempt and s.status >= FAILED and s.worker == session then
    return OK
  end
  if retry >= 0 and s.attempt == attempt + 1 and s.status == SCHEDULED and s.worker == ''
    and s.outcome ~= '' and s.outcome == a[5] then
    return OK
  end
  if not executes(s, attempt) then
    return FENCED
  end
  disown_job(session, run, step_key)
  free_lane(run, step_key, s)
  if status == FAILED then
    s.failures = s.failures + 1
    if retry >= 0 and not FINAL[f.status] and not f.cancel_us then
      append_history(run, 'attempt_failed', step_key, attempt, string.sub(a[5], 2))
      put_back(run, step_key, s, retry, attempt + 1, a[5])
      return OK
    end
  end
  s.outcome = a[5]
  if forget then
    tell_watchers(run, f.watchers, 'completed', '', s.outcome)
    forget_run(run, f, true)
    return OK
  end
  conclude(run, f.status, step_key, s, status)
  return OK
end
