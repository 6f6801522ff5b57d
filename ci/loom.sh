#!/usr/bin/env bash
# Runs the loom models of the arena: every interleaving of a few threads, up to a bound on preemptions.
#
# LOOM_MAX_PREEMPTIONS (default 3) widens or narrows the search; each step takes about five times longer.
# With arguments it runs only the models whose names contain one of them.
set -euo pipefail
cd "$(dirname "$0")/.."

# Nothing else compiles the models, so their warnings count here.
export RUSTFLAGS="--cfg arena_loom -D warnings ${RUSTFLAGS:-}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"
export LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}"

cargo test --package arena --features async-alloc --lib --release -- "${@:-models::}"
