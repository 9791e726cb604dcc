-- decide_step: the answer to an approval, once. run, key, decision
ops.decide_step = function(a)
  local run, step_key, decision = a[1], a[2], a[3]
  local f = load_run(run, 'status', 'cancel_delivery')
  local s = f and load_step(run, step_key)
  if not s or s.kind ~= APPROVAL then
    return NOT_FOUND
  end
  if s.status >= FAILED then
    return s.outcome == 'r' .. decision and OK or DECIDED
  end
  if FINAL[f.status] or is_past(f, s) then
    return SETTLED
  end
  append_history(run, 'decision', step_key, 0, decision)
  disarm(run, step_key, s)
  s.outcome = 'r' .. decision
  conclude(run, f.status, step_key, s, SUCCEEDED)
  return OK
end
