#!/usr/bin/env bash
# Makes the pages of a real run and of a comparison, and renders them in headless Chromium: wide and narrow, light and
# dark.
#
# Fails if a page asks for anything outside of itself, writes to the console, or draws nothing; if it is wider than the
# window, or a table hides columns without a word; or if a figure with a name of its own is not explained. With a folder
# as argument the pictures stay there, to be looked at. Needs Chromium (or its name in CHROMIUM) and nothing else; it is no
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
# Open loop has more columns.
cargo run --quiet --locked --package loadgen -- -c 4 -p 4 -R 500 -w 500ms -d 2s -i 250ms --plain \
    -o "$scratch/open.html" -- "$target/examples/raw_echo" >/dev/null 2>&1
cargo run --quiet --locked --package loadgen -- ab --rounds 8 -c 2 -w 50ms -d 100ms -o "$scratch/ab.html" \
    --a "$target/examples/raw_echo" --b "$target/examples/raw_echo" >/dev/null 2>&1

failed=0
fail() {
    echo "ci/report.sh: $*" >&2
    failed=1
}

# render PAGE WIDTH light|dark
render() {
    local page="$1" width="$2" scheme="$3"
    local name="$page-$width-$scheme" dark=1
    [[ "$scheme" == dark ]] && dark=0
    rm -rf "$scratch/profile"
    timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
        --user-data-dir="$scratch/profile" --host-resolver-rules="MAP * ~NOTFOUND" \
        --blink-settings=preferredColorScheme="$dark" --window-size="$width,3600" \
        --enable-logging=stderr --log-net-log="$scratch/net.json" \
        --screenshot="$pictures/$name.png" "file://$scratch/$page.html" 2>"$scratch/log" >/dev/null ||
        fail "$name cannot be rendered: $(tail -n 3 "$scratch/log")"
    grep 'CONSOLE' "$scratch/log" && fail "$name writes to the console"
    # What the browser asks for on its own account has another key.
    grep -o '"network_isolation_key":"file://[^}]*"url":"[^"]*"' "$scratch/net.json" |
        grep -v '"url":"\(file\|data\):' && fail "$name asks for something outside of itself"
    [[ -s "$pictures/$name.png" ]] || fail "$name has no picture"
}

# Measures a page in a window of this width. The copy lacks the policy that forbids the script that measures.
#
# fits PAGE WIDTH
fits() {
    local page="$1" width="$2"
    sed '/http-equiv="Content-Security-Policy"/,/>$/d' "$scratch/$page.html" >"$scratch/measured.html"
    cat >>"$scratch/measured.html" <<'SCRIPT'
<script>
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const faults = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push("the page is wider than its window");
  for (const wide of document.querySelectorAll(".wide")) {
    const hides = wide.scrollWidth > wide.clientWidth + 1;
    const said = wide.previousElementSibling?.matches(".sideways")
      && getComputedStyle(wide.previousElementSibling).display !== "none";
    if (hides && !said) faults.push(`the table ${wide.ariaLabel} hides columns without a word`);
  }
  document.title = `width ${root.clientWidth}; faults: ${faults.join("; ") || "none"}`;
</script>
SCRIPT
    timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --no-first-run --user-data-dir="$scratch/profile" \
        --disable-background-networking --host-resolver-rules="MAP * ~NOTFOUND" --window-size="$width,2000" \
        --dump-dom "file://$scratch/measured.html" >"$scratch/dom" 2>/dev/null
    grep -q '<title>width [0-9]*; faults: none<' "$scratch/dom" ||
        fail "$page at $width: $(grep -o '<title>[^<]*' "$scratch/dom" | tail -n 1)"
}

for page in report open ab; do
    for width in 1280 390; do
        fits "$page" "$width"
        for scheme in light dark; do
            render "$page" "$width" "$scheme"
        done
    done
done
for term in mismatches unanswered "blocked by the server" "noise floor"; do
    grep -q "<dt>$term</dt><dd>" "$scratch/open.html" || fail "the page does not explain: $term"
done
# Three figures at least, each with a dot for each round.
dots="$(grep -o '<circle' "$scratch/ab.html" | wc -l)"
((dots >= 24)) || fail "the comparison has $dots dots in its chart; 24 are expected"

timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/profile" \
    --host-resolver-rules="MAP * ~NOTFOUND" --dump-dom "file://$scratch/report.html" >"$scratch/page" 2>/dev/null
# A rate, five percentiles, what is in flight, and the distribution.
lines="$(grep -o '<path d="M[^"]*" class="line"' "$scratch/page" | wc -l)"
((lines >= 8)) || fail "the page has $lines lines in its charts; 8 are expected"

exit "$failed"
