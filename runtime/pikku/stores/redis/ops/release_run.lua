-- release_run: the owner gives the run back. run
local function disown(run, of, f)
  disown_run(of, run)
  if f.status == 'running' and f.queued ~= '1' then
    call('HSET', run_key(run), 'owner', '', 'queued', 1)
    push_run(run, f.inline)
  else
    call('HSET', run_key(run), 'owner', '')
  end
end

ops.release_run = function(a)
  local f = load_run(a[1], 'status', 'owner', 'queued', 'inline')
  if not f then
    return NOT_FOUND
  end
  if f.owner ~= session then
    return FENCED
  end
  disown(a[1], session, f)
  return OK
end
