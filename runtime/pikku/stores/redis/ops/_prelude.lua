-- What the operations share: keys, the clock, records, queues, mail. The mirror of records.py.
-- KEYS[1] is the partition's hash tag; every other key is made from it, so all lie in one slot.
local tag, session = KEYS[1], ARGV[1]
local call = redis.call
local OK, EXISTS, CONFLICT, FENCED, NOT_FOUND, SETTLED, NOT_SUSPENDED, ERROR = 0, 1, 2, 3, 4, 5, 6, 7
local NOT_FAILED, NOT_ENDED, DECIDED, NOBODY = 8, 9, 10, 11
local SCHEDULED, RUNNING, FAILED, SUCCEEDED = 1, 2, 3, 4
local SLEEP, ON_ERROR, SIGNAL, APPROVAL, SUSPEND, CHILD, JOB, LAST_KIND = 2, 4, 5, 6, 7, 8, 10, 10
local WAITS = { [SLEEP] = true, [SIGNAL] = true, [APPROVAL] = true }
-- COUNTED: its holder is in the sets of a queue that has limits.
local HANDLED, CALLED_OFF, COUNTED = 1, 2, 4
local function has(flags, bit) return math.floor(flags / bit) % 2 == 1 end
local STEP, CANCEL, RETRY, HANDLE, STOP, ENDED, HAND = 0, 1, 2, 3, 4, 5, 6
local FINAL = { completed = true, failed = true, cancelled = true }
local RUN_STATUS = { running = 1, suspended = 2, completed = 3, failed = 4, cancelled = 5 }
local WRITE_FORMAT = '<BBBI4I4I4I4I4Bdd'
local STEP_FORMAT = '<BBBI4I4I4I4I4I4ddddBc0Bc0I2c0I4c0'

local function run_key(run) return tag .. ':r:' .. run end
local function steps_key(run) return tag .. ':s:' .. run end
local function history_key(run) return tag .. ':h:' .. run end
local function signals_key(run) return tag .. ':g:' .. run end
local function queue_key(queue) return tag .. ':q:' .. queue end
local function own_key(of) return tag .. ':own:' .. of end
local function inbox_key(of) return tag .. ':in:' .. of end
local function holders_key(name) return tag .. ':wv:' .. name end
local sessions_key, timers_key, kept_key = tag .. ':sess', tag .. ':tm', tag .. ':ret'

--@clock
--@corrupt

-- Lists of arguments longer than this are sent in parts: Lua's stack is finite.
local PART = 2000
local function call_in_parts(command, key, arguments)
  local count = #arguments
  for first = 1, count, PART do
    call(command, key, unpack(arguments, first, math.min(first + PART - 1, count)))
  end
end

-- Effects gathered by the operations of a call, made once at its end.
local pushes, mail, owned, disowned = {}, {}, {}, {}
local asked_for_timers, mail_waits = false, false

local function gather(lists, name, value)
  local list = lists[name]
  if not list then
    list = {}
    lists[name] = list
  end
  list[#list + 1] = value
end

local function job_entry(run, step_key, attempt)
  return struct.pack('<I4I2c0', attempt, #run, run) .. step_key
end
local function push_job(lane, run, step_key, attempt)
  gather(pushes, 'jobs:' .. lane, job_entry(run, step_key, attempt))
end
-- A run whose workflow has a name that begins so is a job: nobody orchestrates it.
local JOB_RUNS, JOB_KEY = 'queue:', 'job'
local function is_job(workflow) return string.sub(workflow, 1, #JOB_RUNS) == JOB_RUNS end
-- The parts of a lane: `queue`, or `queue/PRIORITY/GROUP`.
local function place_of(lane)
  local queue, priority, group = string.match(lane, '^([^/]*)/(%d)/(.*)$')
  if queue then
    return queue, tonumber(priority), group
  end
  return lane, 0, ''
end
local function lanes_key(queue) return tag .. ':lanes:' .. queue end
-- Who holds jobs of a queue that has limits, or of one of its groups; who has gone is found out when
-- it is full.
local function busy_key(queue, group)
  return tag .. ':busy:' .. queue .. (group and '/' .. group or '')
end
local function push_run(run, inline)
  gather(pushes, inline == '1' and 'inline' or 'orchestrator', run)
end

local function post(to, run, what, status, number, attempt, step_key, outcome)
  local head = struct.pack('<BBI4I4I2c0I4c0', what, status, number, attempt, #run, run, #step_key, step_key)
  gather(mail, to, head .. outcome)
end

-- A step of a run in an entry of a set, after one letter that says what it is.
local function step_entry(letter, run, step_key)
  return letter .. struct.pack('<I2c0', #run, run) .. step_key
end
local function of_entry(entry)
  local run, after = struct.unpack('<I2c0', entry, 2)
  return run, string.sub(entry, after)
end

local function own_run(run) owned['r' .. run] = true end
local function own_job(run, step_key) owned[step_entry('j', run, step_key)] = true end
local function disown_run(of, run) gather(disowned, of, 'r' .. run) end
local function disown_job(of, run, step_key) gather(disowned, of, step_entry('j', run, step_key)) end

-- Does it, whatever is wrong with one run: the others go on.
local function guarded(about, what, ...)
  local ok, fault = pcall(what, ...)
  if not ok then
    redis.log(redis.LOG_WARNING, 'pikku: ' .. about .. ': ' .. tostring(fault.err or fault))
  end
  return ok
end

local function alive(of)
  local till = call('ZSCORE', sessions_key, of)
  return till and tonumber(till) >= now()
end

-- Steps ---------------------------------------------------------------------------------------
local function read_step(raw)
  local s = {}
  local after
  s.status, s.kind, s.flags, s.attempt, s.failures, s.lost, s.position, s.delivery,
  s.after, s.created, s.started, s.finished, s.due, s.worker, s.queue, s.progress, s.static, after =
    struct.unpack(STEP_FORMAT, raw)
  if s.status > 4 or s.kind > LAST_KIND then
    error('CORRUPT step record')
  end
  s.outcome = string.sub(raw, after)
  return s
end

local function pack_step(s)
  return struct.pack(STEP_FORMAT, s.status, s.kind, s.flags, s.attempt, s.failures, s.lost,
    s.position, s.delivery, s.after, s.created, s.started, s.finished, s.due, #s.worker, s.worker,
    #s.queue, s.queue, #s.progress, s.progress, #s.static, s.static) .. s.outcome
end

local function load_step(run, step_key)
  local raw = call('HGET', steps_key(run), step_key)
  return raw and read_step(raw)
end
local function save_step(run, step_key, s) call('HSET', steps_key(run), step_key, pack_step(s)) end

-- What was said of a step when it was asked for, and never changes: its target; its job.
local function target_of(s)
  local size = struct.unpack('<I2', s.static)
  return string.sub(s.static, 12, 11 + size)
end
local function job_of(s)
  local target, digest, given, size = struct.unpack('<I2Bi4I4', s.static)
  local first = 12 + target + digest + math.max(given, 0)
  return string.sub(s.static, first, first + size - 1)
end

-- A job is held no longer: where it was counted, its queue and its group have room again.
local function free_lane(run, step_key, s)
  if not has(s.flags, COUNTED) then
    return
  end
  s.flags = s.flags - COUNTED
  local queue, _, group = place_of(s.queue)
  local entry = step_entry('j', run, step_key)
  call('SREM', busy_key(queue), entry)
  if group ~= '' then
    call('SREM', busy_key(queue, group), entry)
  end
end

local function load_steps(run, keys)
  local found = {}
  for first = 1, #keys, PART do
    local last = math.min(first + PART - 1, #keys)
    for i, raw in ipairs(call('HMGET', steps_key(run), unpack(keys, first, last))) do
      found[first + i - 1] = raw and read_step(raw)
    end
  end
  return found
end

local function open_steps(run)
  local found = {}
  local all = call('HGETALL', steps_key(run))
  for i = 1, #all, 2 do
    -- What cannot be read must not keep its run from ending.
    local ok, s = pcall(read_step, all[i + 1])
    if ok and s.status < FAILED then
      found[#found + 1] = { all[i], s }
    end
  end
  return found
end

local function rank(attempt, status) return attempt * 4 + (status > FAILED and FAILED or status) end

-- History and timers --------------------------------------------------------------------------
local function append_history(run, kind, step_key, attempt, data, at)
  local entry = struct.pack('<dI4BBc0I4c0', at or now(), attempt, step_key and 1 or 0, #kind, kind,
    #(step_key or ''), step_key or '') .. data
  call('RPUSH', history_key(run), entry)
end

local function add_timer(kind, run, step_key, due)
  asked_for_timers = true
  if call('ZADD', timers_key, due, step_entry(kind, run, step_key)) == 1 then
    call('HINCRBY', run_key(run), 'armed', 1)
  end
end
local function timer_of(kind) return WAITS[kind] and 's' or 'r' end
-- A wait that ends before its time needs its timer no longer.
local function disarm(run, step_key, s)
  if s.due > 0 and call('ZREM', timers_key, step_entry(timer_of(s.kind), run, step_key)) == 1 then
    call('HINCRBY', run_key(run), 'armed', -1)
  end
end
local function drop_timers(run)
  local armed = call('HGET', run_key(run), 'armed')
  if not armed or tonumber(armed) <= 0 then
    return
  end
  asked_for_timers = true
  local entries = { step_entry('t', run, ''), step_entry('b', run, '') }
  for _, found in ipairs(open_steps(run)) do
    entries[#entries + 1] = step_entry(timer_of(found[2].kind), run, found[1])
  end
  call_in_parts('ZREM', timers_key, entries)
  call('HSET', run_key(run), 'armed', 0)
end

-- Runs ----------------------------------------------------------------------------------------
local function index_members(run, number) return string.format('%015d', number) .. run end

-- The run moves from one status to another in the indexes. f: workflow, number, created_us, or nil
local function index(run, from, to, f)
  if not f then
    local found = call('HMGET', run_key(run), 'workflow', 'number', 'created_us')
    f = { workflow = found[1], number = found[2], created_us = found[3] }
  end
  local member = index_members(run, f.number)
  local job = is_job(f.workflow)
  if from then
    if not job then
      call('ZREM', tag .. ':ix:' .. from, member)
    end
    call('ZREM', tag .. ':wf:' .. from .. ':' .. f.workflow, member)
  end
  if to then
    if not job then
      call('ZADD', tag .. ':ix:' .. to, f.created_us, member)
    end
    call('ZADD', tag .. ':wf:' .. to .. ':' .. f.workflow, f.created_us, member)
  end
end

local function load_run(run, ...)
  local found = call('HMGET', run_key(run), ...)
  if not found[1] then
    return nil
  end
  local fields = {}
  for i, name in ipairs({ ... }) do
    fields[name] = found[i]
  end
  return fields
end

-- A word for the run's owner, or a queue entry so that somebody becomes it: exactly one of them.
local function wake(run, what, status, number, attempt, step_key, outcome)
  local f = call('HMGET', run_key(run), 'status', 'owner', 'queued', 'inline')
  if f[1] ~= 'running' then
    return
  end
  if f[2] and f[2] ~= '' then
    post(f[2], run, what, status, number, attempt, step_key, outcome)
  elseif f[3] ~= '1' then
    call('HSET', run_key(run), 'queued', 1)
    push_run(run, f[4])
  end
end

local function put_back(run, step_key, s, wait, attempt, why)
  s.status, s.attempt, s.worker, s.progress, s.outcome = SCHEDULED, attempt, '', '', why or ''
  s.due = wait > 0 and now() + wait or 0
  save_step(run, step_key, s)
  if s.due > 0 then
    add_timer('r', run, step_key, s.due)
  elseif s.queue ~= '' then
    push_job(s.queue, run, step_key, attempt)
  end
end

-- Whether the session executes this attempt: as the holder of its job, or under the lease of its
-- run, which a session that was reaped has lost.
local function executes(s, attempt)
  return s.status == RUNNING and s.attempt == attempt and s.worker == session
    and (s.queue ~= '' or has(s.flags, CALLED_OFF) or call('ZSCORE', sessions_key, session))
end

-- How long what ends in this call is kept (us, 0: for ever), as the operation says.
local retention = 0
local end_job

-- An outcome recorded outside its run's turns.
local function conclude(run, run_status, step_key, s, status)
  s.status, s.finished = status, now()
  if s.kind == JOB then
    end_job(run, run_status, s, status)
  elseif not FINAL[run_status] then
    local number, what = 0, HANDLE
    if not (s.kind == ON_ERROR or (status == FAILED and has(s.flags, HANDLED))) then
      number, what = call('HINCRBY', run_key(run), 'deliveries', 1), STEP
      s.delivery = number
    end
    call('HSET', run_key(run), 'updated_us', now())
    wake(run, what, status, number, s.attempt, step_key, s.outcome)
  end
  save_step(run, step_key, s)
end

-- The step of the parent that waits for a run has its outcome.
local function give_to_parent(run, parent, step_key, status, output, error_text)
  local f = load_run(parent, 'status')
  local s = f and load_step(parent, step_key)
  if not s or s.status >= FAILED or job_of(s) ~= '=' .. run then
    return
  end
  if status == 'completed' then
    s.outcome = output ~= '' and 'r' .. output or ''
    conclude(parent, f.status, step_key, s, SUCCEEDED)
  else
    s.outcome = error_text ~= '' and 'e' .. error_text or ''
    s.failures = s.failures + 1
    conclude(parent, f.status, step_key, s, FAILED)
  end
end

-- A run whose records cannot be read ends there, kept for inspection.
local tell_parent
local function give_up(run)
  local f = call('HMGET', run_key(run), 'status', 'number', 'turn', 'parent', 'parent_step')
  if f[1] and f[2] and not FINAL[f[1]] then
    if not tonumber(f[3] or '') then
      call('HSET', run_key(run), 'turn', 0)
    end
    index(run, f[1], 'failed')
    call('HSET', run_key(run), 'status', 'failed', 'error', string.sub(CORRUPT, 2), 'finished_us',
      now(), 'owner', '', 'queued', 0)
    tell_parent(run, f[4], f[5], 'failed', '', string.sub(CORRUPT, 2))
  end
end

-- A run that ends does so whatever its parent looks like.
tell_parent = function(run, parent, ...)
  if parent and parent ~= '' and not guarded('run ' .. parent, give_to_parent, run, parent, ...) then
    guarded('run ' .. parent, give_up, parent)
  end
end

-- Who waits for the end of a run is told. watchers: their sessions, with blanks between
local function tell_watchers(run, watchers, status, reason, outcome)
  for watcher in string.gmatch(watchers or '', '%S+') do
    if alive(watcher) then
      post(watcher, run, ENDED, RUN_STATUS[status], 0, 1, reason, outcome)
    end
  end
end

-- The run of a job ends as its step has.
end_job = function(run, run_status, s, status)
  if FINAL[run_status] then
    return
  end
  local f = call('HMGET', run_key(run), 'cancel_us', 'cancel_reason', 'watchers')
  local final = status == SUCCEEDED and 'completed' or f[1] and 'cancelled' or 'failed'
  local value = string.sub(s.outcome, 2)
  local failed = string.sub(s.outcome, 1, 1) ~= 'r'
  s.delivery = call('HINCRBY', run_key(run), 'deliveries', 1)
  index(run, run_status, final)
  drop_timers(run)
  call('HSET', run_key(run), 'status', final, 'output', failed and '' or value, 'error',
    failed and value or '', 'finished_us', now(), 'updated_us', now())
  if retention > 0 then
    call('ZADD', kept_key, now() + retention, run)
  end
  if f[3] and f[3] ~= '' then
    tell_watchers(run, f[3], final, f[2] or '', s.outcome)
    call('HDEL', run_key(run), 'watchers')
  end
end

-- Whether a step is a job that was cancelled: it gets no further attempt.
local function is_off(s, cancel_us) return s.kind == JOB and cancel_us end

-- Unwinding -----------------------------------------------------------------------------------
local request_cancel

local function quoted(text) return '"' .. string.gsub(text, '["\\]', '\\%0') .. '"' end

local function cancel_child(run, s)
  local child = string.sub(job_of(s), 2)
  local f = child ~= '' and load_run(child, 'status', 'cancel_us', 'away')
  if f and not FINAL[f.status] and not f.cancel_us then
    local reason = 'run ' .. run .. ' waits for it no longer'
    request_cancel(child, f, 'cancel', reason,
      '={"kind": "cancel", "reason": ' .. quoted(reason) .. '}')
  end
end

-- No job of the run is granted any more, those who execute one are told, and its children unwind.
-- Only a run that is marked `away` has any.
local function withdraw(run)
  for _, found in ipairs(open_steps(run)) do
    local step_key, s = found[1], found[2]
    if s.kind == CHILD then
      guarded('run ' .. run, cancel_child, run, s)
    end
    if s.worker ~= '' and (s.queue ~= '' or has(s.flags, CALLED_OFF)) then
      post(s.worker, run, STOP, 0, 0, s.attempt, step_key, '')
    end
    if s.queue ~= '' then
      if s.status == SCHEDULED then
        if s.worker ~= '' then
          disown_job(s.worker, run, step_key)
          free_lane(run, step_key, s)
        end
        s.worker = ''
      end
      s.queue, s.flags = '', s.flags % 2 + CALLED_OFF
      save_step(run, step_key, s)
    end
  end
end

-- f: status, away
request_cancel = function(run, f, kind, reason, data)
  local number = call('HINCRBY', run_key(run), 'deliveries', 1)
  call('HSET', run_key(run), 'cancel_us', now(), 'cancel_kind', kind, 'cancel_reason', reason,
    'cancel_delivery', number, 'updated_us', now())
  drop_timers(run)
  append_history(run, 'cancel', nil, 0, data)
  if f.status == 'suspended' then
    call('HSET', run_key(run), 'status', 'running', 'suspend_reason', '', 'error', '')
    index(run, 'suspended', 'running')
  end
  if f.away == '1' then
    withdraw(run)
  end
  wake(run, CANCEL, 0, number, 1, kind, 'e=' .. reason)
end

-- Whether nobody waits for a step any more: it was asked for before the run was asked to unwind.
local function is_past(f, s)
  return f.cancel_delivery and s.after < tonumber(f.cancel_delivery)
end

-- Signals -------------------------------------------------------------------------------------
-- One hash a run. After a letter: i, an id that is known; p, a number and a name, a payload that
-- waits; c, a name, the lowest and the next number in its line, then what was given back of those
-- before, lowest first; t, a step, the numbers, names and payloads that it took; o, a name, the
-- steps that wait for it by position.
local NO_LINE = struct.pack('<I4I4', 1, 1)
local function payload_field(number, name) return 'p' .. struct.pack('<I4', number) .. name end
local function taken(number, name, payload)
  return struct.pack('<I4I2c0I4c0', number, #name, name, #payload, payload)
end

-- The payload of the oldest signal of this name that waits, which the step takes.
local function take_signal(run, name, step_key)
  local key = signals_key(run)
  local found = call('HMGET', key, 'c' .. name, 't' .. step_key)
  if not found[1] then
    return nil
  end
  local first, following = struct.unpack('<I4I4', found[1])
  local back = string.sub(found[1], 9)
  local number, payload
  if back ~= '' then
    number = struct.unpack('<I4', back)
    back = string.sub(back, 5)
    payload = call('HGET', key, payload_field(number, name))
  else
    while not payload and first < following do
      number, first = first, first + 1
      payload = call('HGET', key, payload_field(number, name))
    end
  end
  if not number then
    return nil
  end
  local line = struct.pack('<I4I4', first, following) .. back
  if not payload then
    call('HSET', key, 'c' .. name, line)
    return nil
  end
  call('HDEL', key, payload_field(number, name))
  call('HSET', key, 'c' .. name, line, 't' .. step_key,
    (found[2] or '') .. taken(number, name, payload))
  return payload
end

-- What the step took waits again, in its old place.
local function give_signal_back(run, step_key)
  local key = signals_key(run)
  local all = call('HGET', key, 't' .. step_key) or ''
  local at = 1
  while at <= #all do
    local number, name, payload
    number, name, payload, at = struct.unpack('<I4I2c0I4c0', all, at)
    local line = call('HGET', key, 'c' .. name)
    local first = struct.unpack('<I4', line)
    if number < first then
      local place = 9
      while place < #line and struct.unpack('<I4', line, place) < number do
        place = place + 4
      end
      line = string.sub(line, 1, place - 1) .. struct.pack('<I4', number) .. string.sub(line, place)
    end
    call('HSET', key, 'c' .. name, line, payload_field(number, name), payload)
  end
  call('HDEL', key, 't' .. step_key)
end

local function read_waiters(line)
  local found, at = {}, 1
  while at <= #line do
    local each = {}
    each[1], each[2], at = struct.unpack('<I4I2c0', line, at)
    found[#found + 1] = each
  end
  return found
end
local function pack_waiters(waiters)
  local parts = {}
  for i, each in ipairs(waiters) do
    parts[i] = struct.pack('<I4I2c0', each[1], #each[2], each[2])
  end
  return table.concat(parts)
end

-- The step waits for its signal, or does so no longer.
local function wait_for_signal(run, step_key, s, waits)
  local field = 'o' .. target_of(s)
  local waiters = {}
  for _, each in ipairs(read_waiters(call('HGET', signals_key(run), field) or '')) do
    if each[2] ~= step_key then
      waiters[#waiters + 1] = each
    end
  end
  if waits then
    waiters[#waiters + 1] = { s.position, step_key }
    table.sort(waiters, function(one, other) return one[1] < other[1] end)
  end
  if #waiters > 0 then
    call('HSET', signals_key(run), field, pack_waiters(waiters))
  else
    call('HDEL', signals_key(run), field)
  end
end

local ops = {}
