#!/usr/bin/env bash
# The status page in a real browser: complete when it is first painted, no errors, no request to anybody else,
# numbers that move, nothing cut off, no alarm at rest, and no "ready" of a server that hangs or is gone.
#
#   ci/status_page.sh DIRECTORY
#
# Writes screenshots into DIRECTORY, wide and as wide as a phone, light and dark: look at them. Needs Debian's
# `chromium` and `nodejs`, and nothing from npm. Takes a minute beside the build. ARENA_ECHO and LOADGEN name
# programs that are built already.
set -euo pipefail
into=$(mkdir -p "${1:?name a directory for the screenshots}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

if [[ -z ${ARENA_ECHO:-} || -z ${LOADGEN:-} ]]; then
    cargo build --quiet --release --locked -p arena-echo -p loadgen
    built=${CARGO_TARGET_DIR:-target}/release
    ARENA_ECHO=$built/arena-echo LOADGEN=$built/loadgen
fi

scratch=$(mktemp -d)
pids=()
clean() {
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
    done
    rm -rf "$scratch"
}
trap clean EXIT

# Little memory and slow peers, so that there is something to see.
"$ARENA_ECHO" --listen 127.0.0.1:0 --admin 127.0.0.1:0 --capacity 16MiB --reply copy --threads 1 --drain-timeout 20s \
    --frame-timeout 5m --write-timeout 5m --memory-timeout 15m >"$scratch/output" 2>"$scratch/log" &
server=$!
pids+=("$server")
# The checks kill it at the end, which bash need not tell.
disown "$server"
# One with the defaults, which has nothing to do.
"$ARENA_ECHO" --listen 127.0.0.1:0 --admin 127.0.0.1:0 >"$scratch/output-at-rest" 2>"$scratch/log-at-rest" &
pids+=("$!")
found() { sed -n "s/^$1 on //p" "$scratch/output${2:-}"; }
for _ in {1..100}; do
    [[ -n $(found admin) && -n $(found admin -at-rest) ]] && break
    sleep 0.1
done
[[ -n $(found admin) && -n $(found admin -at-rest) ]] || { cat "$scratch"/log* >&2; exit 1; }

"$LOADGEN" -c 24 -d 240s -w 0s -R 3000 -s list:64*60,4k*25,60k*10,300k*5 --slow-readers 6 --slow-senders 12 --plain \
    "$(found listening)" >"$scratch/load" 2>&1 &
pids+=("$!")

node ci/status_page.mjs "http://$(found admin)/" "$into" "$server" "http://$(found admin -at-rest)/" || {
    tail -n 5 "$scratch/log" "$scratch/load" >&2
    exit 1
}
