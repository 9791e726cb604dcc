-- One call: acknowledge mail, carry out the operations one by one, make the gathered effects, then
-- claim from the wanted queues and read the mail.
-- ARGV: session, call number, number of the call whose answer was lost (''), number of the call
-- whose mail is acknowledged (''), how much mail that was, read mail (1), how many calls of the
-- session the server had answered when it last said so, count of wants,
-- [queue, count or limits]*, [operation, count of arguments, arguments...]*
-- limits: `count:concurrency:group concurrency:rate:window (us)`, -1 where there is none
local number, lost, acknowledged, read = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local wants = tonumber(ARGV[8])
local answered = call('HINCRBY', own_key(session), '#c', 1)
-- Fewer than it has heard of: the server has gone back to an earlier state, or the session was
-- reaped. What needs no lease is carried out; what the server takes the session to hold is worth
-- nothing.
local gone = answered <= tonumber(ARGV[7])
if lost ~= '' then
  call('HSET', own_key(session), '#n', number)
end
-- More than it has heard of: something was carried out meanwhile, and this may be a call that was
-- given up and comes late.
local late = answered > tonumber(ARGV[7]) + 1
if not gone and (wants > 0 or acknowledged ~= '' or ARGV[6] == '1' or late) then
  local seen = call('HMGET', own_key(session), '#', '#n')
  if seen[2] and tonumber(seen[2]) > tonumber(number) then
    return redis.error_reply('OVERTAKEN this call was given up, and another one answered')
  end
  if acknowledged ~= '' and seen[1] ~= acknowledged then
    call('LTRIM', inbox_key(session), read, -1)
    call('HSET', own_key(session), '#', acknowledged)
  end
end
local at = 8 + wants * 2
local results = {}
-- A call without operations looks at everything.
local only_looks = at >= argc
while at < argc do
  local name, count = ARGV[at + 1], tonumber(ARGV[at + 2])
  local arguments = {}
  for i = 1, count do
    arguments[i] = ARGV[at + 2 + i]
  end
  at = at + 2 + count
  local ok, answer = pcall(ops[name], arguments)
  if not ok then
    if type(answer) == 'table' then
      answer = answer.err or answer[1]
    end
    answer = tostring(answer)
    -- A run whose own records make no sense ends here; a server that refuses is another matter.
    if string.find(answer, 'WRONGTYPE', 1, true) or string.find(answer, 'attempt to', 1, true)
      or string.find(answer, 'bad argument', 1, true) or string.find(answer, 'CORRUPT', 1, true)
      or string.find(answer, 'data string too short', 1, true) then
      answer = 'CORRUPT ' .. answer
      if name == 'commit' or name == 'complete_step' then
        pcall(give_up, arguments[1])
      end
    end
    answer = { ERROR, answer }
  end
  results[#results + 1] = answer
end

for of, entries in pairs(disowned) do
  call_in_parts('HDEL', own_key(of), entries)
end
local touched = {}
-- The last of its priority.
local function lane_score(name, priority)
  return string.format('%.0f', (9 - priority) * 1e13 + call('INCR', tag .. ':turns:' .. name))
end
for queue, entries in pairs(pushes) do
  call_in_parts('RPUSH', queue_key(queue), entries)
  local lane = string.match(queue, '^jobs:(.*)$')
  if lane then
    local name, priority = place_of(lane)
    queue = 'jobs:' .. name
    call('SADD', tag .. ':queues', name)
    if lane ~= name then
      call('ZADD', lanes_key(name), 'NX', lane_score(name, priority), lane)
    end
  end
  touched[queue] = true
end
local read_mail = only_looks or mail_waits or ARGV[6] == '1'
asked_for_timers = asked_for_timers or only_looks
for to, words in pairs(mail) do
  call_in_parts('RPUSH', inbox_key(to), words)
  if to == session then
    read_mail = true
  else
    call('ZADD', tag .. ':m:in:' .. to, 0, '1')
  end
end

local claimed, jobs, more, asked = {}, {}, {}, {}
local function load(run)
  return { run, call('HGETALL', run_key(run)), call('HGETALL', steps_key(run)) }
end

local function claim_run(run)
  local f = load_run(run, 'status', 'queued')
  if not f or f.queued ~= '1' then
    return false
  end
  if f.status ~= 'running' then
    call('HSET', run_key(run), 'queued', 0)
    return false
  end
  local ok, fault = pcall(call, 'HLEN', steps_key(run))
  if not ok then
    give_up(run)
    error(fault.err or fault)
  end
  call('HSET', run_key(run), 'queued', 0, 'owner', session)
  own_run(run)
  claimed[#claimed + 1] = load(run)
  return true
end

-- counted: whether its holder goes into the sets of a queue that has limits
local function claim_job(queue, entry, counted)
  local attempt, run, after = struct.unpack('<I4I2c0', entry)
  local step_key = string.sub(entry, after)
  local f = load_run(run, 'status', 'workflow')
  local s = f and not FINAL[f.status] and load_step(run, step_key)
  if not s or s.status ~= SCHEDULED or s.attempt ~= attempt or s.queue ~= queue or s.worker ~= ''
    or s.due > now() then -- due later: the entry is that of a run before it
    return false
  end
  s.worker = session
  if s.lost == 0 then
    s.status, s.started, s.outcome = RUNNING, now(), ''
  end
  if counted and not has(s.flags, COUNTED) then
    s.flags = s.flags + COUNTED
  end
  local raw = pack_step(s)
  call('HSET', steps_key(run), step_key, raw)
  own_job(run, step_key)
  jobs[#jobs + 1] = { run, f.workflow, step_key, raw }
  return true
end

-- How many jobs of a queue, or of one of its groups, are held; where that looks like too many, who
-- has gone is left out.
local function held(name, group, most)
  local key = busy_key(name, group)
  local count = call('SCARD', key)
  if count < most then
    return count
  end
  for _, entry in ipairs(call('SMEMBERS', key)) do
    local run, step_key = of_entry(entry)
    local ok, s = pcall(load_step, run, step_key)
    if not ok or not s or s.worker == '' or s.status >= FAILED then
      call('SREM', key, entry)
    end
  end
  return call('SCARD', key)
end

local ASK_AGAIN_US, LANES_AT_ONCE = 250000, 100
local ask_again

-- Claims of a queue what its limits let go: lanes of high priority first, those of one priority in
-- turn. Whether it holds more that they do.
local function claim_within(name, count, concurrency, most, rate, per)
  local left, opened, begun = count, 0, 0
  local rate_key = tag .. ':rate:' .. name
  if rate >= 0 then
    local window = call('HMGET', rate_key, 'opened', 'begun')
    opened, begun = tonumber(window[1] or 0), tonumber(window[2] or 0)
    if now() < opened or now() >= opened + per then
      opened, begun = now(), 0
    end
    left = math.min(left, rate - begun)
  end
  if concurrency >= 0 then
    left = math.min(left, concurrency - held(name, nil, concurrency))
  end
  local levels = {}
  local function look(lanes)
    for _, lane in ipairs(lanes) do
      local _, priority = place_of(lane)
      gather(levels, priority, lane)
    end
  end
  local all = call('ZCARD', lanes_key(name)) <= LANES_AT_ONCE
  if all then
    look(call('ZRANGE', lanes_key(name), 0, -1))
  else -- however many of a priority may give nothing now, the others are looked at
    for priority = 0, 9 do
      local first = string.format('%.0f', (9 - priority) * 1e13)
      local last = string.format('(%.0f', (10 - priority) * 1e13)
      look(call('ZRANGEBYSCORE', lanes_key(name), first, last, 'LIMIT', 0, LANES_AT_ONCE))
    end
  end
  gather(levels, 0, name)
  local got = 0
  local function take(lane, priority, wanted)
    local _, _, group = place_of(lane)
    local grouped = most >= 0 and group ~= ''
    if grouped then
      wanted = math.min(wanted, most - held(name, group, most))
    end
    local entries = wanted > 0 and call('LPOP', queue_key('jobs:' .. lane), wanted)
    for _, entry in ipairs(entries or {}) do
      local ok, claims = pcall(claim_job, lane, entry, concurrency >= 0 or grouped)
      if ok and claims then
        got = got + 1
        local _, run, after = struct.unpack('<I4I2c0', entry)
        local member = step_entry('j', run, string.sub(entry, after))
        if concurrency >= 0 then
          call('SADD', busy_key(name), member)
        end
        if grouped then
          call('SADD', busy_key(name, group), member)
        end
      elseif not ok then
        redis.log(redis.LOG_WARNING, 'pikku: ' .. name .. ': ' .. tostring(claims.err or claims))
      end
    end
    local stays = wanted <= 0 or (entries and #entries == wanted)
    if lane ~= name then
      if stays then
        call('ZADD', lanes_key(name), 'XX', lane_score(name, priority), lane)
      else
        call('ZREM', lanes_key(name), lane)
      end
    end
    return wanted > 0 and stays
  end
  for priority = 9, 0, -1 do
    local at = levels[priority] or {}
    while #at > 0 and got < left do
      local stay = {}
      local share = math.ceil((left - got) / #at)
      for _, lane in ipairs(at) do
        if got < left and take(lane, priority, math.min(share, left - got)) then
          stay[#stay + 1] = lane
        end
      end
      at = stay
    end
  end
  if rate >= 0 and got > 0 then
    begun = begun + got
    call('HSET', rate_key, 'opened', opened, 'begun', begun)
    call('PEXPIRE', rate_key, math.ceil(per / 1000) + 1000)
  end
  local waits = call('LLEN', queue_key('jobs:' .. name)) > 0 or call('ZCARD', lanes_key(name)) > 0
  if not waits or got >= count then
    return waits
  end
  if not all and got > 0 and got < left then
    return true -- those that were not looked at may give something
  end
  local again = now() + ASK_AGAIN_US
  if rate >= 0 and begun >= rate then
    again = math.max(opened + per, now() + 1)
  end
  ask_again = math.min(ask_again or again, again)
  return false
end

local is_alive = gone and 0 or 1
if not gone and (wants > 0 or only_looks) then
  if not call('ZSCORE', sessions_key, session) then
    is_alive = 0
  end
end
for i = 0, wants - 1 do
  local queue, count = ARGV[9 + i * 2], tonumber(ARGV[10 + i * 2])
  asked[queue] = true
  local key = queue_key(queue)
  local name = string.match(queue, '^jobs:(.*)$')
  local empty, left = false, nil
  if not count then
    local limits = {}
    for each in string.gmatch(ARGV[10 + i * 2], '[^:]+') do
      limits[#limits + 1] = tonumber(each)
    end
    count, left = 0, false
    if is_alive == 1 then
      left = claim_within(name, unpack(limits))
    end
    empty = not left
  end
  while is_alive == 1 and count > 0 and not empty do
    local entries = call('LPOP', key, count)
    if not entries then
      empty = true
      break
    end
    empty = #entries < count
    for _, entry in ipairs(entries) do
      local ok, got
      if name then
        ok, got = pcall(claim_job, name, entry)
      else
        ok, got = pcall(claim_run, entry)
      end
      if ok and got then
        count = count - 1
      elseif not ok then
        redis.log(redis.LOG_WARNING, 'pikku: ' .. queue .. ': ' .. tostring(got.err or got))
      end
    end
  end
  if empty then
    touched[queue] = nil
  elseif left or call('LLEN', key) > 0 then
    -- Whoever was told of this queue has no room for all of it: somebody else may.
    more[#more + 1] = queue
    touched[queue] = true
  end
end
for queue in pairs(touched) do
  call('ZADD', tag .. ':m:' .. queue, 0, '1')
  if not asked[queue] then
    more[#more + 1] = queue
  end
end
local entries = {}
for entry in pairs(owned) do
  entries[#entries + 1] = entry
  entries[#entries + 1] = number
end
call_in_parts('HSET', own_key(session), entries)

if lost ~= '' and not gone then
  local held = call('HGETALL', own_key(session))
  for i = 1, #held, 2 do
    local entry, claimed_at = held[i], tonumber(held[i + 1])
    if string.sub(entry, 1, 1) ~= '#' and claimed_at >= tonumber(lost) and held[i + 1] ~= number then
      if string.sub(entry, 1, 1) == 'r' then
        claimed[#claimed + 1] = load(string.sub(entry, 2))
      else
        local run, step_key = of_entry(entry)
        local raw = call('HGET', steps_key(run), step_key)
        if raw then
          jobs[#jobs + 1] = { run, call('HGET', run_key(run), 'workflow'), step_key, raw }
        end
      end
    end
  end
end
local inbox = {}
if gone and answered == 1 then
  call('DEL', own_key(session))
elseif read_mail and not gone then
  inbox = call('LRANGE', inbox_key(session), 0, -1)
end
local next_due = '-1'
if asked_for_timers or ask_again then
  local first = call('ZRANGE', timers_key, 0, 0, 'WITHSCORES')
  local due = tonumber(first[2])
  if ask_again and (not due or ask_again < due) then
    due = ask_again
  end
  next_due = due and string.format('%.0f', due) or ''
end
return { results, claimed, jobs, inbox, next_due, is_alive, more, string.format('%.0f', now()),
  answered }
