-- A session's lease. KEYS: tag. ARGV: session, lease_us, first (1), schema, partitions.
-- 1: it stands; 0: others have taken it away; {schema, partitions} where these differ.
--@clock
local tag = KEYS[1]
local meta = call('HMGET', tag .. ':meta', 'schema', 'partitions')
if not meta[1] then
  call('HSET', tag .. ':meta', 'schema', ARGV[4], 'partitions', ARGV[5])
elseif meta[1] ~= ARGV[4] or meta[2] ~= ARGV[5] then
  return meta
end
if ARGV[1] == '' then
  return 1
end
if ARGV[3] ~= '1' and not call('ZSCORE', tag .. ':sess', ARGV[1]) then
  return 0
end
call('ZADD', tag .. ':sess', now() + tonumber(ARGV[2]), ARGV[1])
return 1
