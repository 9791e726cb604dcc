-- commit: one turn of a run by its owner, whole or not at all.
-- run, turn, base (-1: none), length of what is whole, [key, record]*, how many of them are
-- delivered, writes, [key, head, queue, static, outcome]*, entries,
-- [kind, step ('' or '='..), attempt, data]*, settle status (''), output, error, reason ('' or
-- '='..), reason as data, withdraw (of what is suspended: whether its owner knows that it
-- unwinds), retention (us, 0: for ever), cancel ('' or '='..), cancel data;
-- where there are any: children, [arguments of create_run]*, steps that are called off, [key]*
-- Whether the session has words for a run that it has not read.
local function has_mail(run)
  for _, words in ipairs({ mail[session] or {}, call('LRANGE', inbox_key(session), 0, -1) }) do
    for _, word in ipairs(words) do
      local _, _, _, _, of = struct.unpack('<BBI4I4I2c0', word)
      if of == run then
        return true
      end
    end
  end
  return false
end

local function settle(run, f, status, output, error_text, reason, data, withdrawn, retention)
  disown_run(session, run)
  local unwinds = f.cancel_us and status == 'suspended' and withdrawn ~= '1'
  if status == 'running' and not has_mail(run) then
    call('HSET', run_key(run), 'owner', '')
    return
  end
  if status == 'running' or unwinds then
    -- A signal was there for a wait, or it was asked to unwind meanwhile: whoever takes it up next
    -- sees that.
    call('HSET', run_key(run), 'owner', '', 'queued', 1)
    push_run(run, call('HGET', run_key(run), 'inline'))
    return
  end
  index(run, f.status, status)
  if status == 'suspended' then
    call('HSET', run_key(run), 'owner', '', 'status', status, 'suspend_reason',
      string.sub(reason, 2), 'error', error_text)
    append_history(run, 'suspend', nil, 0, data)
    return
  end
  drop_timers(run)
  call('HSET', run_key(run), 'owner', '', 'status', status, 'output', output, 'error', error_text,
    'finished_us', now())
  if withdrawn == '1' and f.away == '1' then
    withdraw(run)
  end
  if retention > 0 then
    call('ZADD', kept_key, now() + retention, run)
  end
  if f.watchers and f.watchers ~= '' then
    local outcome = output ~= '' and 'r' .. output or error_text ~= '' and 'e' .. error_text or ''
    tell_watchers(run, f.watchers, status, string.sub(reason, 2), outcome)
    call('HDEL', run_key(run), 'watchers')
  end
  tell_parent(run, f.parent, f.parent_step, status, output, error_text)
end

-- The children among the arguments that are not there yet, each with its arguments.
local function new_children(a, at, count)
  local found, seen = {}, {}
  for i = 0, count - 1 do
    local child = {}
    for k = 1, CREATE_ARGUMENTS do
      child[k] = a[at + i * CREATE_ARGUMENTS + k - 1]
    end
    if not seen[child[1]] and call('HLEN', run_key(child[1])) == 0 then
      found[#found + 1] = child
    end
    seen[child[1]] = true
  end
  return found
end

-- The step takes a signal that waits for it, if there is one; how many outcomes there are then.
local function give_signal(run, step_key, s, deliveries)
  local payload = take_signal(run, target_of(s), step_key)
  if not payload then
    return nil
  end
  deliveries = deliveries + 1
  s.status, s.finished, s.delivery, s.outcome = SUCCEEDED, now(), deliveries, 'r' .. payload
  post(session, run, STEP, SUCCEEDED, deliveries, s.attempt, step_key, s.outcome)
  return deliveries
end

-- Ends what the function has given up. Signals that are given back go to who else waits for them.
-- keys, steps by key; made and saved: the steps that change; how many outcomes there are then.
local function call_off(run, f, keys, steps, made, saved, deliveries)
  local given_back = {}
  local function change(step_key, s)
    made[step_key] = s
    saved[#saved + 1] = step_key
  end
  for _, step_key in ipairs(keys) do
    local s = steps[step_key]
    local outcome = s and string.sub(s.outcome, 1, 1)
    if s and outcome ~= 'g' and s.status < FAILED then
      disarm(run, step_key, s)
      if s.kind == SIGNAL then
        wait_for_signal(run, step_key, s, false)
      elseif s.kind == CHILD then
        guarded('run ' .. run, cancel_child, run, s)
      end
      s.status, s.finished, s.outcome = FAILED, now(), 'g'
      change(step_key, s)
    elseif s and s.kind == SIGNAL and outcome == 'r' then
      give_signal_back(run, step_key)
      given_back[#given_back + 1] = target_of(s)
      s.outcome = 'g' .. string.sub(s.outcome, 2)
      change(step_key, s)
    end
  end
  for _, name in ipairs(given_back) do
    for _, each in ipairs(read_waiters(call('HGET', signals_key(run), 'o' .. name) or '')) do
      local step_key = each[2]
      local ok, s = true, made[step_key]
      if not s then
        ok, s = pcall(load_step, run, step_key)
      end
      if ok and s and s.status < FAILED and not is_past(f, s) then
        local counted = give_signal(run, step_key, s, deliveries)
        if not counted then
          break
        end
        deliveries = counted
        disarm(run, step_key, s)
        wait_for_signal(run, step_key, s, false)
        change(step_key, s)
      end
    end
  end
  return deliveries
end

ops.commit = function(a)
  local run, turn, base = a[1], tonumber(a[2]), tonumber(a[3])
  local f =
    call('HMGET', run_key(run), 'owner', 'turn', 'turned_by', 'deliveries', 'cancel_delivery')
  if not f[2] then
    return NOT_FOUND
  end
  local last = tonumber(f[2])
  if turn == last and f[3] == session then
    return OK
  end
  if f[1] ~= session or turn ~= last + 1 then
    return FENCED
  end
  local deliveries = tonumber(f[4])
  if base >= 0 and base ~= deliveries then
    mail_waits = true
    return CONFLICT
  end
  local whole = tonumber(a[4])
  deliveries = deliveries + tonumber(a[5 + whole])
  local writes_at = 6 + whole
  local writes = tonumber(a[writes_at])
  local entries_at = writes_at + 1 + writes * 5
  local entries = tonumber(a[entries_at])
  local rest = entries_at + entries * 4
  local status = a[rest + 1]
  if status == 'running' and has_mail(run) then
    mail_waits = true
    return CONFLICT
  end
  local olds, waits, written = {}, false, {}
  if writes > 0 then
    local keys = {}
    for i = 1, writes do
      keys[i] = a[writes_at + 5 * i - 4]
      written[keys[i]] = true
      waits = waits or string.byte(a[writes_at + 5 * i - 3], 2) == SIGNAL
    end
    olds = load_steps(run, keys)
  end
  -- What is called off: steps of before, and steps of this turn.
  local children, off, off_now, off_steps = {}, {}, {}, {}
  local count = tonumber(a[rest + 10])
  if count then
    children = new_children(a, rest + 11, count)
    local off_at = rest + 11 + count * CREATE_ARGUMENTS
    for i = off_at + 1, off_at + tonumber(a[off_at]) do
      local to = written[a[i]] and off_now or off
      to[#to + 1] = a[i]
    end
    for i, s in pairs(load_steps(run, off)) do
      off_steps[off[i]] = s
    end
    waits = waits or #off + #off_now > 0
  end
  local fields
  if status ~= '' or a[rest + 8] ~= '' then
    fields = load_run(run, 'status', 'watchers', 'cancel_us', 'away', 'parent', 'parent_step')
  end
  if waits then
    call('HLEN', signals_key(run))
  end
  if entries > 0 then
    call('LLEN', history_key(run))
  end
  -- Everything is checked: from here on only writes.
  for _, child in ipairs(children) do
    create(child)
  end
  local saved, made, away = {}, {}, false
  local fate = { cancel_delivery = f[5] }
  deliveries = call_off(run, fate, off, off_steps, made, saved, deliveries)
  for i = 1, writes do
    local at = writes_at + 5 * i - 4
    local step_key = a[at]
    local st, kind, flags, attempt, failures, lost, position, after_number, deliver, wait, till =
      struct.unpack(WRITE_FORMAT, a[at + 1])
    local queue, static, outcome = a[at + 2], a[at + 3], a[at + 4]
    local due = till > 0 and till or (wait >= 0 and now() + wait or 0)
    -- A key may be written twice in one turn: its end, and what follows from it.
    local s = made[step_key] or olds[i]
    off_steps[step_key] = s
    local changed = true
    if not s then
      local begun = st >= RUNNING
      s = {
        status = st, kind = kind, flags = flags, attempt = attempt, failures = failures,
        lost = lost, position = position, delivery = 0, after = after_number, created = now(),
        started = begun and now() or 0, finished = st >= FAILED and now() or 0, due = due,
        worker = begun and session or '', queue = queue, progress = '', static = static,
        outcome = outcome,
      }
      if deliver == 1 then
        deliveries = deliveries + 1
        s.delivery = deliveries
      end
    else
      local before, after = rank(s.attempt, s.status), rank(attempt, st)
      if after == before and deliver == 1 and s.delivery == 0 then
        deliveries = deliveries + 1
        s.delivery = deliveries
      elseif after == before and st == SCHEDULED
        and ((queue ~= '' and s.queue == '' and not has(s.flags, CALLED_OFF))
          or (kind == CHILD and job_of(s) == '')) then
        -- The attempt that its run's owner would have made crosses a queue after all, or the run of
        -- a child that is retried has been made.
        s.due, s.queue, s.flags, s.worker, s.outcome = due, queue, flags, '', ''
        if static ~= '' then
          s.static = static
        end
      elseif after > before then
        s.status, s.attempt, s.failures, s.lost, s.outcome = st, attempt, failures, lost, outcome
        s.due, s.queue, s.flags, s.progress = due, queue, flags, ''
        if static ~= '' then
          s.static = static
        end
        if st == SCHEDULED then
          s.worker = ''
        elseif st == RUNNING then
          s.started, s.worker = now(), session
        elseif st >= FAILED then
          s.finished = now()
        end
        if deliver == 1 then
          deliveries = deliveries + 1
          s.delivery = deliveries
        end
      else
        changed = false
      end
    end
    if changed then
      made[step_key], off_steps[step_key] = s, s
      saved[#saved + 1] = step_key
      away = away or queue ~= '' or (kind == CHILD and st < FAILED)
      if st == SCHEDULED and s.status == SCHEDULED then
        local counted = kind == SIGNAL and give_signal(run, step_key, s, deliveries)
        if counted then
          deliveries = counted
        elseif due > 0 then
          add_timer(timer_of(kind), run, step_key, due)
          if kind == SIGNAL then
            wait_for_signal(run, step_key, s, true)
          end
        elseif kind == SIGNAL then
          wait_for_signal(run, step_key, s, true)
        elseif queue ~= '' then
          push_job(queue, run, step_key, attempt)
        end
      end
    end
  end
  deliveries = call_off(run, fate, off_now, off_steps, made, saved, deliveries)
  if #saved > 0 or whole > 0 then
    local arguments = {}
    for i = 5, 4 + whole do
      arguments[i - 4] = a[i]
    end
    for _, step_key in ipairs(saved) do
      local s = made[step_key]
      if s then
        arguments[#arguments + 1] = step_key
        arguments[#arguments + 1] = pack_step(s)
        made[step_key] = nil
      end
    end
    call_in_parts('HSET', steps_key(run), arguments)
  end
  local counted = { 'turn', turn, 'deliveries', deliveries, 'updated_us', now() }
  if f[3] ~= session then
    counted[7], counted[8] = 'turned_by', session
  end
  if away then
    counted[#counted + 1] = 'away'
    counted[#counted + 1] = 1
    if fields then
      fields.away = '1'
    end
  end
  call('HSET', run_key(run), unpack(counted))
  for i = 0, entries - 1 do
    local at = entries_at + 1 + i * 4
    local step_key = a[at + 1] ~= '' and string.sub(a[at + 1], 2) or nil
    append_history(run, a[at], step_key, tonumber(a[at + 2]), a[at + 3])
  end
  if a[rest + 8] ~= '' and not fields.cancel_us then
    request_cancel(run, fields, 'cancel', string.sub(a[rest + 8], 2), a[rest + 9])
  end
  if status ~= '' then
    settle(run, fields, status, a[rest + 2], a[rest + 3], a[rest + 4], a[rest + 5], a[rest + 6],
      tonumber(a[rest + 7]))
  end
  return OK
end
