-- reap_sessions: what expired sessions held is queued for somebody else; what outlived its
-- retention is deleted. limit, max_lost, poisoned (an outcome), retention
local function take_away(of, run, step_key, max_lost, poisoned)
  local f = load_run(run, 'status', 'cancel_us')
  local s = f and load_step(run, step_key)
  if not s or s.status >= FAILED or s.worker ~= of then
    return
  end
  free_lane(run, step_key, s)
  if FINAL[f.status] then
    s.worker = ''
    save_step(run, step_key, s)
  elseif s.status == SCHEDULED and not is_off(s, f.cancel_us) then
    put_back(run, step_key, s, 0, s.attempt)
  else
    s.lost = s.lost + 1
    append_history(run, 'attempt_lost', step_key, s.attempt, '')
    if is_off(s, f.cancel_us) then
      conclude(run, f.status, step_key, s, FAILED)
    elseif s.lost < max_lost or s.queue == '' then
      put_back(run, step_key, s, 0, s.attempt + 1)
    else
      s.outcome = poisoned
      conclude(run, f.status, step_key, s, FAILED)
    end
  end
end

local function take_run(of, run)
  local f = load_run(run, 'status', 'owner', 'queued', 'inline')
  if f and f.owner == of then
    disown(run, of, f)
  end
end

local function forget_kept(run)
  local f = load_run(run, unpack(FORGOTTEN))
  if f then
    forget_run(run, f)
  end
end

local function forget_old()
  local old = call('ZRANGEBYSCORE', kept_key, '-inf', now(), 'LIMIT', 0, 50)
  for _, run in ipairs(old) do
    call('ZREM', kept_key, run)
    guarded('run ' .. run, forget_kept, run)
  end
end

ops.reap_sessions = function(a)
  local left, max_lost = tonumber(a[1]), tonumber(a[2])
  retention = tonumber(a[4])
  for _, of in ipairs(call('ZRANGEBYSCORE', sessions_key, '-inf', string.format('(%.0f', now()))) do
    local held = call('HKEYS', own_key(of))
    for _, entry in ipairs(held) do
      if left > 0 and string.sub(entry, 1, 1) ~= '#' then
        left = left - 1
        local kind = string.sub(entry, 1, 1)
        if kind == 'r' then
          local run = string.sub(entry, 2)
          guarded('run ' .. run, take_run, of, run)
        else
          local run, step_key = of_entry(entry)
          guarded('run ' .. run, take_away, of, run, step_key, max_lost, a[3])
        end
        call('HDEL', own_key(of), entry)
      end
    end
    if left <= 0 then
      break
    end
    drop_holds(of)
    call('DEL', own_key(of), inbox_key(of), tag .. ':m:in:' .. of)
    call('ZREM', sessions_key, of)
  end
  forget_old()
  return OK
end
