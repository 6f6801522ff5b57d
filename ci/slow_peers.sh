#!/usr/bin/env bash
# What honest clients notice of slow ones: their latency alone, and beside 1,000 clients that send byte by byte and 1,000
# that ask for much and read little. Fails if an honest request is not answered, never for a time.
#
#   ci/slow_peers.sh [COUNT OF EACH KIND [TIME OF EACH RUN]]
#
# Three configurations, three runs of 15 s each with and without. Needs python3 and `ulimit -n` of 3,000. Takes some six
# minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/slow_peers.py "$@"
