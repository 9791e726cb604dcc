-- What the operations share: keys, the clock, records, queues, mail. The mirror of records.py.
-- KEYS[1] is the partition's hash tag; every other key is made from it, so all lie in one slot.
local tag, session = KEYS[1], ARGV[1]
local call = redis.call
local OK, EXISTS, CONFLICT, FENCED, NOT_FOUND, SETTLED, NOT_SUSPENDED, ERROR = 0, 1, 2, 3, 4, 5, 6, 7
local SCHEDULED, RUNNING, FAILED, SUCCEEDED = 1, 2, 3, 4
local SLEEP, ON_ERROR = 2, 4
local HANDLED, CALLED_OFF = 1, 2
local STEP, CANCEL, RETRY, HANDLE, STOP, ENDED = 0, 1, 2, 3, 4, 5
local FINAL = { completed = true, failed = true, cancelled = true }
local RUN_STATUS = { running = 1, suspended = 2, completed = 3, failed = 4, cancelled = 5 }
local STEP_FORMAT = '<BBBI4I4I4I4I4ddddBc0Bc0I2c0I4c0'

local function run_key(run) return tag .. ':r:' .. run end
local function steps_key(run) return tag .. ':s:' .. run end
local function history_key(run) return tag .. ':h:' .. run end
local function queue_key(queue) return tag .. ':q:' .. queue end
local function own_key(of) return tag .. ':own:' .. of end
local function inbox_key(of) return tag .. ':in:' .. of end
local sessions_key, timers_key = tag .. ':sess', tag .. ':tm'

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
local function push_job(queue, run, step_key, attempt)
  gather(pushes, 'jobs:' .. queue, job_entry(run, step_key, attempt))
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
  s.created, s.started, s.finished, s.due, s.worker, s.queue, s.progress, s.static, after =
    struct.unpack(STEP_FORMAT, raw)
  if s.status > 4 or s.kind > 4 then
    error('CORRUPT step record')
  end
  s.outcome = string.sub(raw, after)
  return s
end

local function pack_step(s)
  return struct.pack(STEP_FORMAT, s.status, s.kind, s.flags, s.attempt, s.failures, s.lost,
    s.position, s.delivery, s.created, s.started, s.finished, s.due, #s.worker, s.worker,
    #s.queue, s.queue, #s.progress, s.progress, #s.static, s.static) .. s.outcome
end

local function load_step(run, step_key)
  local raw = call('HGET', steps_key(run), step_key)
  return raw and read_step(raw)
end
local function save_step(run, step_key, s) call('HSET', steps_key(run), step_key, pack_step(s)) end

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
local function append_history(run, kind, step_key, attempt, data)
  local entry = struct.pack('<dI4BBc0I4c0', now(), attempt, step_key and 1 or 0, #kind, kind,
    #(step_key or ''), step_key or '') .. data
  call('RPUSH', history_key(run), entry)
end

local function add_timer(kind, run, step_key, due)
  asked_for_timers = true
  if call('ZADD', timers_key, due, step_entry(kind, run, step_key)) == 1 then
    call('HINCRBY', run_key(run), 'armed', 1)
  end
end
local function drop_timers(run)
  local armed = call('HGET', run_key(run), 'armed')
  if not armed or tonumber(armed) <= 0 then
    return
  end
  local entries = { step_entry('t', run, '') }
  for _, found in ipairs(open_steps(run)) do
    entries[#entries + 1] = step_entry(found[2].kind == SLEEP and 's' or 'r', run, found[1])
  end
  call_in_parts('ZREM', timers_key, entries)
  call('HSET', run_key(run), 'armed', 0)
end

-- Runs ----------------------------------------------------------------------------------------
local function index_members(run, number) return string.format('%015d', number) .. run end

-- The run moves from one status to another in the indexes.
local function index(run, from, to)
  local f = call('HMGET', run_key(run), 'workflow', 'number', 'created_us')
  local member = index_members(run, f[2])
  if from then
    call('ZREM', tag .. ':ix:' .. from, member)
    call('ZREM', tag .. ':wf:' .. from .. ':' .. f[1], member)
  end
  if to then
    call('ZADD', tag .. ':ix:' .. to, f[3], member)
    call('ZADD', tag .. ':wf:' .. to .. ':' .. f[1], f[3], member)
  end
end

-- A run whose records cannot be read ends there, kept for inspection.
local function give_up(run)
  local f = call('HMGET', run_key(run), 'status', 'number', 'turn')
  if f[1] and f[2] and not FINAL[f[1]] then
    if not tonumber(f[3] or '') then
      call('HSET', run_key(run), 'turn', 0)
    end
    index(run, f[1], 'failed')
    call('HSET', run_key(run), 'status', 'failed', 'error', string.sub(CORRUPT, 2), 'finished_us',
      now(), 'owner', '', 'queued', 0)
  end
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
    and (s.queue ~= '' or s.flags >= CALLED_OFF or call('ZSCORE', sessions_key, session))
end

-- An outcome recorded outside its run's turns.
local function conclude(run, run_status, step_key, s, status)
  s.status, s.finished = status, now()
  if not FINAL[run_status] then
    local number, what = 0, HANDLE
    if not (s.kind == ON_ERROR or (status == FAILED and s.flags % 2 == HANDLED)) then
      number, what = call('HINCRBY', run_key(run), 'deliveries', 1), STEP
      s.delivery = number
    end
    call('HSET', run_key(run), 'updated_us', now())
    wake(run, what, status, number, s.attempt, step_key, s.outcome)
  end
  save_step(run, step_key, s)
end

local function withdraw(run)
  for _, found in ipairs(open_steps(run)) do
    local step_key, s = found[1], found[2]
    if s.queue ~= '' then
      if s.worker ~= '' then
        post(s.worker, run, STOP, 0, 0, s.attempt, step_key, '')
      end
      if s.status == SCHEDULED then
        if s.worker ~= '' then
          disown_job(s.worker, run, step_key)
        end
        s.worker = ''
      end
      s.queue, s.flags = '', s.flags % 2 + CALLED_OFF
      save_step(run, step_key, s)
    end
  end
end

local function request_cancel(run, f, kind, reason, data)
  local number = call('HINCRBY', run_key(run), 'deliveries', 1)
  call('HSET', run_key(run), 'cancel_us', now(), 'cancel_kind', kind, 'cancel_reason', reason,
    'cancel_delivery', number, 'updated_us', now())
  drop_timers(run)
  append_history(run, 'cancel', nil, 0, data)
  if f.status == 'suspended' then
    call('HSET', run_key(run), 'status', 'running', 'suspend_reason', '')
    index(run, 'suspended', 'running')
  end
  if f.inline ~= '1' then
    withdraw(run)
  end
  wake(run, CANCEL, 0, number, 1, kind, 'e=' .. reason)
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

local ops = {}
