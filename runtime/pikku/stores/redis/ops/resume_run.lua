-- resume_run: a suspended run goes on. run
ops.resume_run = function(a)
  local f = load_run(a[1], 'status', 'inline')
  if not f then
    return NOT_FOUND
  end
  if f.status ~= 'suspended' then
    return NOT_SUSPENDED
  end
  call('HSET', run_key(a[1]), 'status', 'running', 'suspend_reason', '', 'error', '', 'updated_us',
    now(), 'queued', 1)
  index(a[1], 'suspended', 'running')
  append_history(a[1], 'resume', nil, 0, '')
  push_run(a[1], f.inline)
  local open = open_steps(a[1])
  table.sort(open, function(one, other) return one[2].position < other[2].position end)
  for _, found in ipairs(open) do
    if found[2].kind == SUSPEND then
      conclude(a[1], 'running', found[1], found[2], SUCCEEDED)
    end
  end
  return OK
end
