-- What all scripts ask, as functions that give one request. In the environment: ARCHLAB_API_KEY; LOAD_COLLECTION, unless it
-- is "captions"; of those about pictures IMAGE, a file.
local asking = {}

-- Each run and each of its threads asks other texts: what was asked before, the service remembers. Threads differ by where
-- this table lies, runs by the time, and LOAD_SEED tells apart those that begin in the same second.
math.randomseed(os.time() + tonumber(tostring(asking):match("0x(%x+)"), 16) + 2 ^ 20 * (os.getenv("LOAD_SEED") or 0))

local collection = os.getenv("LOAD_COLLECTION") or "captions"
local sizes, colours = {"small", "large"}, {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"}
local shapes = {"circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart"}
local boundary = "archlab-load-0123456789abcdef"

local function headers(kind)
  local found = {["Content-Type"] = kind}
  if os.getenv("ARCHLAB_API_KEY") then
    found["Authorization"] = "Bearer " .. os.getenv("ARCHLAB_API_KEY")
  end
  return found
end

local function one_of(words)
  return words[math.random(#words)]
end

local function object()
  return "a " .. one_of(sizes) .. " " .. one_of(colours) .. " " .. one_of(shapes)
end

local function part(name, more, value)
  return "--" .. boundary .. '\r\nContent-Disposition: form-data; name="' .. name .. '"' .. more .. "\r\n\r\n" .. value
    .. "\r\n"
end

local picture
local function form(fields)
  if not picture then
    local path = os.getenv("IMAGE")
    if not path then
      error("set IMAGE to the file of a picture")
    end
    local file = assert(io.open(path, "rb"))
    picture = file:read("*a")
    file:close()
  end
  return fields .. part("image", '; filename="picture"', picture) .. "--" .. boundary .. "--\r\n"
end

local function about_picture(path, fields)
  return wrk.format("POST", path, headers("multipart/form-data; boundary=" .. boundary), form(fields))
end

-- By text, each time with other words.
function asking.search()
  local body = string.format('{"text": "%s, %s and %s", "k": 10}', object(), object(), object())
  return wrk.format("POST", "/v1/collections/" .. collection .. "/search", headers("application/json"), body)
end

function asking.classify()
  local labels = part("labels", "", "red circle") .. part("labels", "", "blue square")
    .. part("labels", "", "green star")
  return about_picture("/v1/classify", labels)
end

function asking.caption()
  return about_picture("/v1/caption", "")
end

return asking
