#!/usr/bin/env bash
# Load for a long time: memory must not grow by more than 1 % after warming up, and every counter must balance at the end.
#
#   ci/soak.sh [TIME]        ten minutes if no time is said; 2m is the least that says anything
#
# 64 connections with up to 8 requests in flight, payloads of many sizes, each connection changed for another after 200
# requests. Needs python3.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/soak.py "$@"
