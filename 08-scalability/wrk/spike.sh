#!/bin/sh
# A quarter of the connections all the time and, twice, without warning, all of them. Three lines of JSON: of both spikes, as
# they end, and of the quarter, which says what the spikes did to it. From this folder: sh spike.sh URL
set -eu
users=${LOAD_USERS:-256} seconds=${LOAD_SECONDS:-60}
calm=$((users / 4))

ask() { # CONNECTIONS SECONDS
  wrk --threads 1 --connections "$1" --duration "$2s" --script search.lua "$url" | tail -n 1
}

url=$1
ask "$calm" "$seconds" &
for _ in first second; do
  sleep $((seconds * 3 / 10))
  ask $((users - calm)) $(((seconds + 9) / 10))
done
wait
