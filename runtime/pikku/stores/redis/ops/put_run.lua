-- put_run: a whole run, new or instead of a failed one.
-- run, run_attempt, timeout_us (''), kept until (us, 0: no matter), count of expected (-1: it is
-- new), [key, attempt, status]*, count of what follows, [field, value]*, steps, [key, record]*,
-- entries, [kind, step ('' or '='..), attempt, data, at_us (0: now)]*

-- Whether the steps of a run are those that are expected.
local function as_expected(run, a, at, count)
  local expected, distinct = {}, 0
  for i = 0, count - 1 do
    local step_key = a[at + i * 3]
    local said = a[at + i * 3 + 1] .. ' ' .. a[at + i * 3 + 2]
    if not expected[step_key] then
      distinct = distinct + 1
    elseif expected[step_key] ~= said then
      return false
    end
    expected[step_key] = said
  end
  local all = call('HGETALL', steps_key(run))
  for i = 1, #all, 2 do
    local s = read_step(all[i + 1])
    if expected[all[i]] ~= s.attempt .. ' ' .. s.status then
      return false
    end
  end
  return #all == distinct * 2
end

ops.put_run = function(a)
  local run, count = a[1], tonumber(a[5])
  local at = 6
  local f
  if count < 0 then
    local there = call('HGETALL', run_key(run))
    if #there > 0 then
      return { EXISTS, there }
    end
  else
    f = load_run(run, 'status', 'run_attempt', 'turn', 'workflow', 'number', 'tags')
    if not f then
      return NOT_FOUND
    end
    if f.run_attempt == a[2] then
      return OK
    end
    if f.status ~= 'failed' then
      return NOT_FAILED
    end
    if tonumber(f.run_attempt) ~= tonumber(a[2]) - 1 or not as_expected(run, a, at, count) then
      return CONFLICT
    end
    at = at + count * 3
    disown_jobs(run)
    drop_timers(run)
    drop_from_indexes(run, f)
    call('ZREM', kept_key, run)
    call('UNLINK', run_key(run), steps_key(run))
  end
  local fields = { 'number', f and f.number or call('INCR', tag .. ':runs') }
  local p = {}
  for i = at + 1, at + tonumber(a[at]), 2 do
    p[a[i]] = a[i + 1]
    fields[#fields + 1] = a[i]
    fields[#fields + 1] = a[i + 1]
  end
  at = at + tonumber(a[at]) + 1
  call('HSET', run_key(run), unpack(fields))
  call('HSET', run_key(run), 'owner', '', 'turned_by', '', 'turn', f and f.turn or p.turn, 'queued',
    p.status == 'running' and not is_job(p.workflow) and 1 or 0)
  index(run, nil, p.status)
  for each in string.gmatch(p.tags, '[^%z]+') do
    call('ZADD', tag .. ':tag:' .. each, p.created_us, index_members(run, fields[2]))
  end
  if FINAL[p.status] and a[4] ~= '0' then
    call('ZADD', kept_key, a[4], run)
  end
  local steps, waits, away = {}, {}, false
  for i = at + 1, at + 2 * tonumber(a[at]) do
    steps[i - at] = a[i]
  end
  at = at + #steps + 1
  call_in_parts('HSET', steps_key(run), steps)
  for i = 1, #steps, 2 do
    local s = read_step(steps[i + 1])
    local moves = s.status == SCHEDULED and (s.kind ~= JOB or p.status == 'running')
    if moves and s.kind == SIGNAL then
      waits[#waits + 1] = { steps[i], s }
    elseif moves and s.due > 0 then
      add_timer(timer_of(s.kind), run, steps[i], s.due)
    elseif moves and s.kind == JOB and s.queue ~= '' then
      push_job(s.queue, run, steps[i], s.attempt)
    end
    away = away or s.kind == CHILD or s.queue ~= ''
  end
  table.sort(waits, function(one, other) return one[2].position < other[2].position end)
  for _, wait in ipairs(waits) do
    local step_key, s = wait[1], wait[2]
    local payload = take_signal(run, target_of(s), step_key)
    if payload then
      s.outcome = 'r' .. payload
      conclude(run, p.status, step_key, s, SUCCEEDED)
    else
      wait_for_signal(run, step_key, s, true)
      if s.due > 0 then
        add_timer(timer_of(s.kind), run, step_key, s.due)
      end
    end
  end
  if away then
    call('HSET', run_key(run), 'away', 1)
  end
  for i = at + 1, at + 5 * tonumber(a[at]), 5 do
    local step_key = a[i + 1] ~= '' and string.sub(a[i + 1], 2) or nil
    local at_us = tonumber(a[i + 4])
    append_history(run, a[i], step_key, tonumber(a[i + 2]), a[i + 3], at_us > 0 and at_us or nil)
  end
  if p.status == 'running' and not is_job(p.workflow) then
    push_run(run, p.inline)
  end
  if a[3] ~= '' then
    add_timer('t', run, '', now() + tonumber(a[3]))
  end
  return OK
end
