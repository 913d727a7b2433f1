-- 8 searches to 2 classifications and 1 caption. For an hour it is a soak.
-- From this folder: IMAGE=cat.jpg wrk --threads 1 --connections 32 --duration 60s --script mixed.lua URL
local asking = dofile("asking.lua")

function request()
  local which = math.random(11)
  return which <= 8 and asking.search() or which <= 10 and asking.classify() or asking.caption()
end

function done(summary, latency, requests)
  dofile("report.lua")(summary, latency)
end
