-- What could move a run: leases, queues, timers. KEYS: tag. 
--@clock
local tag = KEYS[1]
local runs = { call('LRANGE', tag .. ':q:inline', 0, -1), call('LRANGE', tag .. ':q:orchestrator', 0, -1) }
local jobs = {}
for i, name in ipairs(call('SMEMBERS', tag .. ':queues')) do
  jobs[i] = call('LRANGE', tag .. ':q:jobs:' .. name, 0, -1)
end
return { string.format('%.0f', now()), call('ZRANGE', tag .. ':sess', 0, -1, 'WITHSCORES'), runs, jobs,
  call('ZRANGE', tag .. ':tm', 0, -1) }
