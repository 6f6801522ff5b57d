#!/usr/bin/env bash
# What honest clients notice of slow ones: their latency alone, beside 1,000 clients that send byte by byte and 1,000 that
# ask for much and read little, and beside as many of another server, which take as much of the machine. Fails if an honest
# request is not answered, never for a time.
#
#   ci/slow_peers.sh [COUNT OF EACH KIND [TIME OF EACH RUN [ROUNDS [FLAGS OF THE SERVER]]]]
#
# Without flags: three configurations, three sides, five rounds of 10 s each. Needs python3 and `ulimit -n` of 3,000; servers, honest and
# slow clients have processors of their own if there are six. Takes some ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/slow_peers.py "$@"
