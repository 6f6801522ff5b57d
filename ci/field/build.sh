# Sourced by the scripts beside this folder: the two programs, optimised.
#
# ARENA_ECHO and LOADGEN name programs that are built already; what they leave open is built, which takes some minutes
# the first time.

target="${CARGO_TARGET_DIR:-target}/release"
if [[ -z "${ARENA_ECHO:-}" || -z "${LOADGEN:-}" ]]; then
    cargo build --release --locked --package arena-echo --package loadgen
fi
export ARENA_ECHO="${ARENA_ECHO:-$target/arena-echo}"
export LOADGEN="${LOADGEN:-$target/loadgen}"
