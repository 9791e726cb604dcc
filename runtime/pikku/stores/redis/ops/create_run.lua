-- create_run: a new run, owned by the session, queued, or put off; or the one that was there.
-- run, workflow, input, version, inline, claim, tags, started_by ('' or '='..), timeout_us (''),
-- parent (''), parent_step, depth, pinned, delay_us (''), traceparent (''), key of its job (''), its
-- head, lane and static part
local CREATE_ARGUMENTS = 19

-- The step of a run that is a job; it waits for its time, or in its lane.
local function create_job(run, step_key, head, lane, static)
  local st, kind, flags, attempt, failures, lost, position, after, _, wait = struct.unpack(WRITE_FORMAT, head)
  local due = wait >= 0 and now() + wait or 0
  save_step(run, step_key, {
    status = st, kind = kind, flags = flags, attempt = attempt, failures = failures, lost = lost,
    position = position, delivery = 0, after = after, created = now(), started = 0, finished = 0,
    due = due, worker = '', queue = lane, progress = '', static = static, outcome = '',
  })
  if due > 0 then
    add_timer('r', run, step_key, due)
  else
    push_job(lane, run, step_key, attempt)
  end
end

-- Makes a run that is not there; its fields.
local function create(a)
  local run, delayed, job = a[1], a[14] ~= '', a[16] ~= ''
  local claimed = a[6] == '1' and not job and not delayed and call('ZSCORE', sessions_key, session)
  local queued = not job and not claimed and not delayed
  local number, at = call('INCR', tag .. ':runs'), string.format('%.0f', now())
  local fields = {
    'workflow', a[2], 'status', 'running', 'input', a[3], 'version', a[4], 'inline', a[5],
    'run_attempt', '1', 'owner', claimed and session or '', 'queued', queued and '1' or '0',
    'turn', '0', 'turned_by', '', 'deliveries', '0', 'tags', a[7], 'number', tostring(number),
    'created_us', at, 'updated_us', at,
  }
  local function add(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  if a[8] ~= '' then
    add('started_by', string.sub(a[8], 2))
  end
  if a[10] ~= '' then
    add('parent', a[10])
    add('parent_step', a[11])
  end
  if a[12] ~= '0' then
    add('depth', a[12])
  end
  if a[13] == '1' then
    add('pinned', '1')
  end
  if a[15] ~= '' then
    add('traceparent', a[15])
  end
  if job then
    add('away', '1')
  end
  call('HSET', run_key(run), unpack(fields))
  local member = index_members(run, number)
  if not job then
    call('ZADD', tag .. ':ix:running', now(), member)
  end
  call('ZADD', tag .. ':wf:running:' .. a[2], now(), member)
  for each in string.gmatch(a[7], '[^%z]+') do
    call('ZADD', tag .. ':tag:' .. each, now(), member)
  end
  if claimed then
    call('HSET', own_key(session), 'r' .. run, 0)
  elseif queued then
    push_run(run, a[5])
  end
  if job then
    create_job(run, a[16], a[17], a[18], a[19])
    return fields
  end
  local begins = now()
  if delayed then
    begins = begins + tonumber(a[14])
    add_timer('b', run, '', begins)
  end
  if a[9] ~= '' then
    add_timer('t', run, '', begins + tonumber(a[9]))
  end
  return fields
end

ops.create_run = function(a)
  local there = call('HGETALL', run_key(a[1]))
  if #there > 0 then
    return { EXISTS, there }
  end
  return { OK, create(a) }
end
