#!/usr/bin/env bash
# Runs the arena's tests under AddressSanitizer and ThreadSanitizer.
#
# Needs a nightly toolchain (`rustup toolchain install nightly`), and for ThreadSanitizer its `rust-src` component, because
# the standard library must be built with it as well. What is missing is said and left out.
# The address sanitizer would also see leaks: an arena that is never freed.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain="${SANITIZE_TOOLCHAIN:-nightly}"
target="$(rustc -vV | sed -n 's/^host: //p')"

if ! rustup run "$toolchain" rustc --version; then
    echo "ci/sanitize.sh: no $toolchain toolchain is installed: nothing was checked" >&2
    exit 1
fi

# Arguments: the sanitizer, then further flags for cargo.
run() {
    local sanitizer="$1"
    shift
    echo "== $sanitizer"
    RUSTFLAGS="-Zsanitizer=$sanitizer ${RUSTFLAGS:-}" \
        CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/$sanitizer" \
        cargo "+$toolchain" test --package arena --lib --tests --target "$target" "$@"
}

# A request that no memory can hold must come back as an error here too.
ASAN_OPTIONS="allocator_may_return_null=1 ${ASAN_OPTIONS:-}" run address
if [[ -d "$(rustc "+$toolchain" --print sysroot)/lib/rustlib/src/rust/library" ]]; then
    run thread -Zbuild-std
else
    echo "ci/sanitize.sh: $toolchain has no rust-src component: ThreadSanitizer was left out" >&2
fi
