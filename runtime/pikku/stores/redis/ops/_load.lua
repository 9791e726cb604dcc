-- A run with its steps, in one read. KEYS: tag. ARGV: run
local run = redis.call('HGETALL', KEYS[1] .. ':r:' .. ARGV[1])
if #run == 0 then
  return false
end
return { ARGV[1], run, redis.call('HGETALL', KEYS[1] .. ':s:' .. ARGV[1]) }
