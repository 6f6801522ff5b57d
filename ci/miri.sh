#!/usr/bin/env bash
# Runs the arena's tests under Miri, with strict provenance: once with each borrow model (Stacked and Tree Borrows), and
# what runs several threads with many seeds, each of which is another schedule.
#
# Needs a nightly toolchain with the components miri and rust-src. Without them it says so and checks nothing.
# Miri has no kernel barrier, so what runs here is the path without thread caches; the models cover the other.
#
#   ci/miri.sh [FILTER...]         all tests, or those whose names contain one of these
#   MIRI_SEEDS=256 ci/miri.sh      so many seeds for the tests named in `threaded` (default 64)
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain="${MIRI_TOOLCHAIN:-nightly}"
seeds="${MIRI_SEEDS:-64}"
# Tests whose threads meet in the last moments of an arena, in the queue, or in the counts of frozen bytes.
threaded=(lifecycle::release lifecycle::frozen waiting::)

if ! cargo "+$toolchain" miri --version; then
    echo "ci/miri.sh: $toolchain has no miri component: nothing was checked" >&2
    exit 1
fi

common="-Zmiri-strict-provenance -Zmiri-disable-isolation ${MIRIFLAGS:-}"
miri() {
    echo "== MIRIFLAGS=$MIRIFLAGS"
    cargo "+$toolchain" miri test --package arena --features async-alloc "$@"
}

for borrows in "" "-Zmiri-tree-borrows"; do
    MIRIFLAGS="$common $borrows" miri --lib --test it -- "$@"
    MIRIFLAGS="$common $borrows -Zmiri-many-seeds=0..$seeds" miri --test it -- "${@:-${threaded[@]}}"
done
