-- What could move a run: leases, queues, timers. KEYS: tag. 
--@clock
local tag = KEYS[1]
local runs = { call('LRANGE', tag .. ':q:inline', 0, -1), call('LRANGE', tag .. ':q:orchestrator', 0, -1) }
local jobs = {}
for _, name in ipairs(call('SMEMBERS', tag .. ':queues')) do
  jobs[#jobs + 1] = call('LRANGE', tag .. ':q:jobs:' .. name, 0, -1)
  for _, lane in ipairs(call('ZRANGE', tag .. ':lanes:' .. name, 0, -1)) do
    jobs[#jobs + 1] = call('LRANGE', tag .. ':q:jobs:' .. lane, 0, -1)
  end
end
return { string.format('%.0f', now()), call('ZRANGE', tag .. ':sess', 0, -1, 'WITHSCORES'), runs, jobs,
  call('ZRANGE', tag .. ':tm', 0, -1) }
