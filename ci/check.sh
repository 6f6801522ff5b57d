#!/usr/bin/env bash
# Formatting, lints, documentation, the tests of the optimised build, threads that are stopped, the
# loom models and the examples.
#
# Needs the stable toolchain with rustfmt and clippy, and python3 (3.11). Takes some ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
# The libraries as embedders build them who do not wait, and who encrypt nothing. Dependencies of
# tests switch features on, so tests are left out where those would hide something.
step cargo clippy --package arena --no-default-features --lib --locked -- -D warnings
step cargo clippy --package arena --features async-alloc --lib --locked -- -D warnings
step cargo clippy --package arena-echo --no-default-features --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --document-private-items --locked
step cargo test --workspace --profile testrelease --locked
# Two at a time: each has threads of its own, and some are held for as long as others take.
step cargo test --package arena --profile testrelease --locked --test stall -- --test-threads=2
step ci/loom.sh
# That the list fits the code; to run it takes too long here.
step ci/mutants.sh --check-list
for example in fixed_buffer buddy_buffer spill_buffer; do
    step cargo run --quiet --locked --package arena --example "$example"
done
step cargo run --quiet --locked --package arena --features tokio --example async_alloc
