-- Classifies one picture over and over, sent as a file of a form. In the environment: IMAGE, a file, and
-- ARCHLAB_API_KEY. From this folder: IMAGE=cat.jpg wrk --threads 1 --connections 16 --duration 30s --script classify.lua URL
local path = os.getenv("IMAGE")
if not path then
  error("set IMAGE to the file of a picture")
end
local file = assert(io.open(path, "rb"))
local picture = file:read("*a")
file:close()

local boundary = "archlab-load-0123456789abcdef"
local function part(name, more, value)
  return "--" .. boundary .. '\r\nContent-Disposition: form-data; name="' .. name .. '"' .. more .. "\r\n\r\n" .. value
    .. "\r\n"
end

wrk.method = "POST"
wrk.path = "/v1/classify"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=" .. boundary
if os.getenv("ARCHLAB_API_KEY") then
  wrk.headers["Authorization"] = "Bearer " .. os.getenv("ARCHLAB_API_KEY")
end
wrk.body = part("labels", "", "red circle") .. part("labels", "", "blue square") .. part("labels", "", "green star")
  .. part("image", '; filename="picture"', picture) .. "--" .. boundary .. "--\r\n"

function done(summary, latency, requests)
  dofile("report.lua")(summary, latency)
end
