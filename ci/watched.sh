#!/usr/bin/env bash
# What it costs the data path that somebody watches: four status pages and a scrape of /metrics each second, beside the same
# load unwatched, and what watching alone costs. Prints ratios, and fails only if a request is not answered or nobody could
# watch.
#
#   ci/watched.sh [ROUNDS [TIME OF EACH RUN]]
#
# Needs python3 and a quiet machine. Takes three minutes with nine rounds of 4 s.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/watched.py "$@"
