-- requeue_run: an unfinished run gets the next actions that its records call for. run,
-- retention

-- Whether the run's owner would have to execute a step that somebody else was about to, and has
-- made a turn without it.
local function forsaken(f, steps)
  if f.turned_by ~= f.owner then
    return false
  end
  for _, found in ipairs(steps) do
    local s = found[2]
    if s.status == RUNNING and s.queue == '' and not has(s.flags, CALLED_OFF) and s.worker ~= f.owner
      and not WAITS[s.kind] and s.kind ~= CHILD and s.kind ~= SUSPEND and not is_past(f, s) then
      return true
    end
  end
  return false
end

ops.requeue_run = function(a)
  local run = a[1]
  retention = tonumber(a[2])
  local f = load_run(run, 'status', 'owner', 'queued', 'inline', 'cancel_us', 'cancel_delivery',
    'workflow', 'turned_by')
  if not f then
    return NOT_FOUND
  end
  if FINAL[f.status] then
    return SETTLED
  end
  if is_job(f.workflow) and f.status ~= 'running' then
    return OK
  end
  if f.owner ~= '' and not alive(f.owner) then
    disown_run(f.owner, run)
    f.owner = ''
  end
  local steps = open_steps(run)
  if f.owner ~= '' and forsaken(f, steps) then
    disown_run(f.owner, run)
    f.owner = '' -- whoever takes it up next executes what its owner does not
  end
  if f.status == 'running' and f.owner == '' and not is_job(f.workflow) then
    call('HSET', run_key(run), 'owner', '', 'queued', 1)
    push_run(run, f.inline)
  else
    call('HSET', run_key(run), 'owner', f.owner)
  end
  for _, found in ipairs(steps) do
    local step_key, s = found[1], found[2]
    local away = s.queue ~= '' or has(s.flags, CALLED_OFF)
    local ended = f.cancel_us and s.created <= tonumber(f.cancel_us)
    local held = away and s.worker ~= '' and alive(s.worker)
    if not held and (away or s.status ~= RUNNING) then
      if away and s.worker ~= '' then
        disown_job(s.worker, run, step_key)
        free_lane(run, step_key, s)
      end
      if is_off(s, f.cancel_us) then
        conclude(run, f.status, step_key, s, FAILED)
      elseif s.status == RUNNING then
        put_back(run, step_key, s, 0, s.attempt + 1)
      elseif ended then -- it waits for nothing any more
      elseif s.kind == CHILD then
        local child = string.sub(job_of(s), 2)
        local c = load_run(child, 'status', 'parent', 'parent_step', 'output', 'error')
        if c and FINAL[c.status] then
          tell_parent(child, c.parent, c.parent_step, c.status, c.output or '', c.error or '')
        end
      elseif s.due > now() then
        add_timer(timer_of(s.kind), run, step_key, s.due)
      elseif s.kind == SLEEP or (WAITS[s.kind] and s.due > 0) then
        add_timer('s', run, step_key, s.due > 0 and s.due or now())
      elseif away then
        put_back(run, step_key, s, 0, s.attempt)
      end
    end
  end
  return OK
end
