#!/usr/bin/env bash
# What happens when file descriptors run out: whom the server serves, who waits, what it costs, and that it recovers.
#
# Twice: the limit is low from the start, and it falls while the server runs, so that accepting fails. Needs python3 3.7 on
# Linux. Takes 15 s.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/descriptors.py "$@"
