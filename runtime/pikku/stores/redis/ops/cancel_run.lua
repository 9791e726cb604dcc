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

-- A job that has not begun ends at once; one that has is asked to stop.
local function cancel_job(a, f)
  local run = a[1]
  call('HSET', run_key(run), 'cancel_us', now(), 'cancel_kind', a[2], 'cancel_reason', a[3])
  append_history(run, 'cancel', nil, 0, a[4])
  local s = load_step(run, JOB_KEY)
  if not s or s.status >= FAILED then
    return
  end
  if s.worker ~= '' then
    if s.status == RUNNING then
      post(s.worker, run, STOP, 0, 0, s.attempt, JOB_KEY, '')
      return
    end
    disown_job(s.worker, run, JOB_KEY)
    free_lane(run, JOB_KEY, s)
  end
  s.worker, s.outcome = '', a[5] ~= '' and 'e' .. a[5] or ''
  conclude(run, f.status, JOB_KEY, s, FAILED)
end

ops.cancel_run = function(a)
  retention = tonumber(a[6])
  local f = load_run(a[1], 'status', 'away', 'cancel_us', 'cancel_reason', 'watchers', 'parent',
    'parent_step', 'workflow')
  if not f then
    return NOT_FOUND
  end
  if FINAL[f.status] then
    return SETTLED
  end
  if a[5] ~= '' and f.status == 'suspended' then
    end_by_force(a, f)
  elseif f.cancel_us then -- it is recorded
  elseif is_job(f.workflow) then
    cancel_job(a, f)
  else
    request_cancel(a[1], f, a[2], a[3], a[4])
  end
  return OK
end
