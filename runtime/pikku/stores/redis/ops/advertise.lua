-- advertise: what the session can execute, instead of what it said before. name*
local function drop_holds(of)
  for name in string.gmatch(call('HGET', own_key(of), '#h') or '', '[^%z]+') do
    call('HDEL', holders_key(name), of)
  end
end

ops.advertise = function(a)
  if call('ZSCORE', sessions_key, session) then
    drop_holds(session)
    for _, name in ipairs(a) do
      call('HSET', holders_key(name), session, 1)
    end
    call('HSET', own_key(session), '#h', table.concat(a, '\0'))
  end
  return OK
end
