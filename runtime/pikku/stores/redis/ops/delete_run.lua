-- delete_run: everything of an ended run goes. run
local function disown_jobs(run)
  for _, found in ipairs(open_steps(run)) do
    if found[2].worker ~= '' then
      disown_job(found[2].worker, run, found[1])
    end
  end
end

-- f: status, tags, workflow, number
local function drop_from_indexes(run, f)
  index(run, f.status, nil, f)
  for each in string.gmatch(f.tags, '[^%z]+') do
    call('ZREM', tag .. ':tag:' .. each, index_members(run, f.number))
  end
end

-- What `forget_run` has to know of a run.
local FORGOTTEN = { 'status', 'workflow', 'number', 'tags', 'away', 'armed' }
local TOLD_AND_FORGOTTEN = { 'watchers', unpack(FORGOTTEN, 2) }

-- f: what it has to know; ended: whether the run ends by this
local function forget_run(run, f, ended)
  if not ended and not FINAL[f.status] then
    return
  end
  drop_from_indexes(run, f)
  if f.away == '1' and not ended then
    disown_jobs(run)
  end
  if tonumber(f.armed or 0) > 0 then
    drop_timers(run)
  end
  call('UNLINK', run_key(run), steps_key(run), history_key(run), signals_key(run))
end

ops.delete_run = function(a)
  local f = load_run(a[1], unpack(FORGOTTEN))
  if not f then
    return NOT_FOUND
  end
  if not FINAL[f.status] then
    return NOT_ENDED
  end
  forget_run(a[1], f)
  call('ZREM', kept_key, a[1])
  return OK
end
