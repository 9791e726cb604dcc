-- signal_run: a signal ends the oldest wait for it, or waits in the run. run, id, name, payload
ops.signal_run = function(a)
  local run, id, name, payload = a[1], a[2], a[3], a[4]
  local f = load_run(run, 'status', 'cancel_delivery')
  if not f then
    return NOT_FOUND
  end
  local key = signals_key(run)
  local found = call('HMGET', key, 'i' .. id, 'c' .. name, 'o' .. name)
  if found[1] then
    return OK
  end
  if FINAL[f.status] then
    return SETTLED
  end
  -- Whoever waits no longer is left out of those who do.
  local step_key, s
  local others = {}
  for _, each in ipairs(read_waiters(found[3] or '')) do
    if s then
      others[#others + 1] = each
    else
      local ok, read = pcall(load_step, run, each[2])
      if ok and read and read.kind == SIGNAL and read.status < FAILED and target_of(read) == name
        and not is_past(f, read) then
        step_key, s = each[2], read
      end
    end
  end
  append_history(run, 'signal', name, 0, payload)
  local line = found[2] or NO_LINE
  local first, number = struct.unpack('<I4I4', line)
  if s and first == number then
    first = first + 1
  end
  line = struct.pack('<I4I4', first, number + 1) .. string.sub(line, 9)
  if not s then
    call('HSET', key, 'i' .. id, 1, 'c' .. name, line, payload_field(number, name), payload)
    return OK
  end
  local took = call('HGET', key, 't' .. step_key) or ''
  call('HSET', key, 'i' .. id, 1, 'c' .. name, line, 'o' .. name, pack_waiters(others),
    't' .. step_key, took .. taken(number, name, payload))
  disarm(run, step_key, s)
  s.outcome = 'r' .. payload
  conclude(run, f.status, step_key, s, SUCCEEDED)
  return OK
end
