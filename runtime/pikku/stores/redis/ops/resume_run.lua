-- resume_run: a suspended run goes on. run, timeout_us of one that was imported (''),
-- retention
ops.resume_run = function(a)
  local f = load_run(a[1], 'status', 'inline', 'suspend_reason', 'cancel_us', 'cancel_delivery',
    'workflow')
  if not f then
    return NOT_FOUND
  end
  if f.status ~= 'suspended' then
    return NOT_SUSPENDED
  end
  if a[2] ~= '' and f.suspend_reason == 'imported' and not f.cancel_us then
    add_timer('t', a[1], '', now() + tonumber(a[2]))
  end
  call('HSET', run_key(a[1]), 'status', 'running', 'suspend_reason', '', 'error', '', 'updated_us',
    now(), 'queued', is_job(f.workflow) and 0 or 1)
  index(a[1], 'suspended', 'running')
  append_history(a[1], 'resume', nil, 0, '')
  if is_job(f.workflow) then
    return ops.requeue_run({ a[1], a[3] })
  end
  push_run(a[1], f.inline)
  local open = open_steps(a[1])
  table.sort(open, function(one, other) return one[2].position < other[2].position end)
  for _, found in ipairs(open) do
    if found[2].kind == SUSPEND and not is_past(f, found[2]) then
      conclude(a[1], 'running', found[1], found[2], SUCCEEDED)
    end
  end
  return OK
end
