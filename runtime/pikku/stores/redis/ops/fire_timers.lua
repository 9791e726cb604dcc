-- fire_timers: due waits end, due attempts are queued or announced, what was put off starts, due
-- timeouts unwind. limit
local function fire(entry)
  local kind = string.sub(entry, 1, 1)
  local run, step_key = of_entry(entry)
  local f = load_run(run, 'status', 'away', 'cancel_us')
  if not f then
    return
  end
  call('HINCRBY', run_key(run), 'armed', -1)
  if FINAL[f.status] then
    return
  end
  if kind == 't' then
    if not f.cancel_us then
      request_cancel(run, f, 'timeout', 'its timeout passed',
        '={"kind": "timeout", "reason": "its timeout passed"}')
    end
    return
  end
  if kind == 'b' then
    wake(run, RETRY, 0, 0, 1, '', '')
    return
  end
  local s = load_step(run, step_key)
  if not s or s.status ~= SCHEDULED then
    return
  end
  if kind == 's' then
    if s.kind == SIGNAL then
      wait_for_signal(run, step_key, s, false)
    end
    conclude(run, f.status, step_key, s, SUCCEEDED)
  elseif has(s.flags, CALLED_OFF) then
    return
  elseif s.queue == '' then
    wake(run, RETRY, 0, 0, s.attempt, step_key, '')
  elseif s.worker == '' then
    s.due = 0 -- it is wanted from now on, also where the clock is set back
    save_step(run, step_key, s)
    push_job(s.queue, run, step_key, s.attempt)
  end
end

ops.fire_timers = function(a)
  asked_for_timers = true
  local due = call('ZRANGEBYSCORE', timers_key, '-inf', now(), 'LIMIT', 0, a[1])
  for _, entry in ipairs(due) do
    -- A timer before it may have ended what this one is for.
    if call('ZREM', timers_key, entry) == 1 then
      guarded('timer', fire, entry)
    end
  end
  return OK
end
