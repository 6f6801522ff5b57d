#!/usr/bin/env bash
# What TLS costs both sides: CPU time per request of the load generator and of arena-echo, with and without it. Prints ratios,
# and fails only if a request is not answered.
#
#   ci/tls.sh [ROUNDS [TIME OF EACH RUN]]      11 rounds of 2 s if nothing is said
#
# Needs python3, openssl, and two CPUs that have nothing else to do: on a busy machine the times say little, and the ratios
# something. Takes three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/tls.py "$@"
