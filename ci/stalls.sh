#!/usr/bin/env bash
# Stops threads of the arena wherever they can be stopped, for longer than ci/check.sh does.
#
# Arguments: seconds for each test that could go on for ever [20], then filters of test names.
# Needs the right to use SCHED_FIFO and to install seccomp filters (root has both), and fails
# without: `cargo test` leaves out what needs a right that is missing, and says so. Optimised, so
# that an operation has few instructions and is held at each of them.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-20}"
shift || true
export ARENA_STALL_SECONDS="$seconds" ARENA_STALL_REQUIRE_ALL=1
exec cargo test --profile testrelease --locked --package arena --test stall -- --nocapture "$@"
