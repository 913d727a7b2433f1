#!/bin/sh
# A quarter of the connections all the time and, twice, without warning, all of them. Three lines of JSON: of both spikes, as
# they end, and of the quarter, which says what the spikes did to it. From this folder: sh spike.sh URL
set -eu
users=${LOAD_USERS:-256} seconds=${LOAD_SECONDS:-60}
calm=$((users / 4))

ask() { # SEED CONNECTIONS SECONDS
  LOAD_SEED=$1 wrk --threads 1 --connections "$2" --duration "$3s" --script search.lua "$url" | tail -n 1
}

url=$1
ask 0 "$calm" "$seconds" &
for spike in 1 2; do
  sleep $((seconds * 3 / 10))
  ask "$spike" $((users - calm)) $(((seconds + 9) / 10))
done
wait
