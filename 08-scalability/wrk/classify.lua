-- Classifies one picture over and over, sent as a file of a form.
-- From this folder: IMAGE=cat.jpg wrk --threads 1 --connections 16 --duration 30s --script classify.lua URL
request = dofile("asking.lua").classify

function done(summary, latency, requests)
  dofile("report.lua")(summary, latency)
end
