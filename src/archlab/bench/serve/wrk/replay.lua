-- Asks the lines of a file in turns, each of them a body of JSON. ARCHLAB_API_KEY is the key, if any. From this folder:
-- wrk --threads 1 --connections 64 --duration 30s --script replay.lua URL -- FILE PLACE
-- where URL ends in the path that is asked, and PLACE is the number of lines to leave out at first.
local requests, place = {}, 0

function init(arguments)
  local key = os.getenv("ARCHLAB_API_KEY") or ""
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  if key ~= "" then
    wrk.headers["Authorization"] = "Bearer " .. key
  end
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body) -- now, so that asking costs next to nothing
  end
  place = tonumber(arguments[2])
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency, requests)
  dofile("report.lua")(summary, latency)
end
