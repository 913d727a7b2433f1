-- What wrk measured, as one line of JSON: a threshold is then one comparison in a script. "requests" are those that were
-- answered well. wrk counts statuses from 400 on as errors; that is all but 2xx, as the service redirects nobody, and
-- saves a callback that would look at every answer.
return function(summary, latency)
  local failed, kinds = 0, {}
  for _, kind in ipairs({"status", "connect", "read", "write", "timeout"}) do
    failed = failed + summary.errors[kind]
    kinds[#kinds + 1] = string.format('"%s": %d', kind, summary.errors[kind])
  end
  local answered, seconds = summary.requests - summary.errors.status, summary.duration / 1e6
  io.write(string.format(
    '{"requests": %d, "throughput_per_s": %.1f, "p50_ms": %.2f, "p95_ms": %.2f, "p99_ms": %.2f, "max_ms": %.2f, '
      .. '"seconds": %.3f, "errors": %d, "error_kinds": {%s}}\n',
    answered, answered / seconds, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, seconds, failed, table.concat(kinds, ", ")))
end
