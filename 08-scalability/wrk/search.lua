-- Searches by text, each with other words. In the environment: ARCHLAB_API_KEY and, unless it is "captions",
-- LOAD_COLLECTION. From this folder: wrk --threads 1 --connections 64 --duration 30s --script search.lua URL
local collection = os.getenv("LOAD_COLLECTION") or "captions"
local sizes, colours = {"small", "large"}, {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"}
local shapes = {"circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart"}

local headers = {["Content-Type"] = "application/json"}
if os.getenv("ARCHLAB_API_KEY") then
  headers["Authorization"] = "Bearer " .. os.getenv("ARCHLAB_API_KEY")
end

local function one_of(words)
  return words[math.random(#words)]
end

local function object()
  return "a " .. one_of(sizes) .. " " .. one_of(colours) .. " " .. one_of(shapes)
end

function request()
  local body = string.format('{"text": "%s, %s and %s", "k": 10}', object(), object(), object())
  return wrk.format("POST", "/v1/collections/" .. collection .. "/search", headers, body)
end

function done(summary, latency, requests)
  dofile("report.lua")(summary, latency)
end
