#!/usr/bin/env bash
# What the load generator costs and how well it keeps time, beside an echo server that only sends back what it reads.
#
#   ci/generator.sh [ROUNDS] [TIME]      11 rounds and a long run of ten minutes if nothing is said; "0m" for no long run
#
# Needs python3 and two CPUs that have nothing else to do: on a busy machine the figures say nothing. Takes a quarter of an hour.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
cargo build --release --locked --package loadgen --example raw_echo
export RAW_ECHO="${CARGO_TARGET_DIR:-target}/release/examples/raw_echo"
exec python3 ci/field/generator.py "$@"
