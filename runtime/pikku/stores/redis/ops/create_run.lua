-- create_run: a new run, owned by the session or queued; or the one that was there.
-- run, workflow, input, version, inline, claim, tags, started_by ('' or '='..), timeout_us ('')
ops.create_run = function(a)
  local run = a[1]
  local there = call('HGETALL', run_key(run))
  if #there > 0 then
    return { EXISTS, there }
  end
  local claimed = a[6] == '1' and call('ZSCORE', sessions_key, session)
  local number = call('INCR', tag .. ':runs')
  local fields = {
    'workflow', a[2], 'status', 'running', 'input', a[3], 'version', a[4], 'inline', a[5],
    'run_attempt', 1, 'owner', claimed and session or '', 'queued', claimed and 0 or 1, 'turn', 0,
    'turned_by', '', 'deliveries', 0, 'tags', a[7], 'number', number, 'created_us', now(),
    'updated_us', now(),
  }
  if a[8] ~= '' then
    fields[#fields + 1] = 'started_by'
    fields[#fields + 1] = string.sub(a[8], 2)
  end
  call('HSET', run_key(run), unpack(fields))
  local member = index_members(run, number)
  call('ZADD', tag .. ':ix:running', now(), member)
  call('ZADD', tag .. ':wf:running:' .. a[2], now(), member)
  for each in string.gmatch(a[7], '[^%z]+') do
    call('ZADD', tag .. ':tag:' .. each, now(), member)
  end
  if claimed then
    call('HSET', own_key(session), 'r' .. run, 0)
  else
    push_run(run, a[5])
  end
  if a[9] ~= '' then
    add_timer('t', run, '', now() + tonumber(a[9]))
  end
  return { OK, call('HGETALL', run_key(run)) }
end
