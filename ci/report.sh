#!/usr/bin/env bash
# Makes a report of a real run, and renders it in headless Chromium: wide and narrow, light and dark.
#
# Fails if the page asks for anything outside of itself, writes to the console, or draws nothing. With a folder as
# argument the pictures stay there, to be looked at. Needs Chromium (or its name in CHROMIUM) and nothing else; it is no
# part of .ci/run, because not everybody has it. The browser resolves no names, so nothing leaves this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

chromium="${CHROMIUM:-chromium}"
if ! command -v "$chromium" >/dev/null; then
    echo "ci/report.sh: there is no $chromium: nothing was checked" >&2
    exit 1
fi
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
pictures="${1:-$scratch}"
mkdir -p "$pictures"

cargo build --quiet --locked --package loadgen --example raw_echo
target="${CARGO_TARGET_DIR:-target}/debug"
cargo run --quiet --locked --package loadgen -- -c 4 -p 4 -w 500ms -d 2s -i 250ms --plain \
    -o "$scratch/report.html" -- "$target/examples/raw_echo" >/dev/null 2>&1

failed=0
fail() {
    echo "ci/report.sh: $*" >&2
    failed=1
}

# render WIDTH light|dark
render() {
    local width="$1" scheme="$2"
    local name="report-$width-$scheme" dark=1
    [[ "$scheme" == dark ]] && dark=0
    rm -rf "$scratch/profile"
    timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
        --user-data-dir="$scratch/profile" --host-resolver-rules="MAP * ~NOTFOUND" \
        --blink-settings=preferredColorScheme="$dark" --window-size="$width,3600" \
        --enable-logging=stderr --log-net-log="$scratch/net.json" \
        --screenshot="$pictures/$name.png" "file://$scratch/report.html" 2>"$scratch/log" >/dev/null ||
        fail "$name cannot be rendered: $(tail -n 3 "$scratch/log")"
    grep 'CONSOLE' "$scratch/log" && fail "$name writes to the console"
    # What the browser asks for on its own account has another key.
    grep -o '"network_isolation_key":"file://[^}]*"url":"[^"]*"' "$scratch/net.json" |
        grep -v '"url":"\(file\|data\):' && fail "$name asks for something outside of itself"
    [[ -s "$pictures/$name.png" ]] || fail "$name has no picture"
}

for width in 1280 400; do
    for scheme in light dark; do
        render "$width" "$scheme"
    done
done

timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/profile" \
    --host-resolver-rules="MAP * ~NOTFOUND" --dump-dom "file://$scratch/report.html" >"$scratch/page" 2>/dev/null
# A rate, five percentiles, what is in flight, and the distribution.
lines="$(grep -o '<path d="M[^"]*" class="line"' "$scratch/page" | wc -l)"
((lines >= 8)) || fail "the page has $lines lines in its charts; 8 are expected"

exit "$failed"
