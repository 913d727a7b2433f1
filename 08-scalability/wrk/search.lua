-- Searches by text. From this folder: wrk --threads 1 --connections 64 --duration 30s --script search.lua URL
request = dofile("asking.lua").search

function done(summary, latency, requests)
  dofile("report.lua")(summary, latency)
end
