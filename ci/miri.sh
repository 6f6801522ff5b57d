#!/usr/bin/env bash
# Runs the arena's tests under Miri, with strict provenance.
#
# Needs a nightly toolchain with the components miri and rust-src. Without them it says so and checks nothing.
# Miri has no kernel barrier, so what runs here is the path without thread caches; the models cover the other.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain="${MIRI_TOOLCHAIN:-nightly}"
if ! cargo "+$toolchain" miri --version; then
    echo "ci/miri.sh: $toolchain has no miri component: nothing was checked" >&2
    exit 1
fi

export MIRIFLAGS="-Zmiri-strict-provenance -Zmiri-disable-isolation ${MIRIFLAGS:-}"
exec cargo "+$toolchain" miri test --package arena --lib --test it "$@"
