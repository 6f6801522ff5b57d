#!/usr/bin/env bash
# What new connections cost: the same load over connections that stay, and over ones that are changed for others after 100,
# 10 and 1 requests. Fails if a request is not answered, never for a time.
#
#   ci/churn.sh [TIME OF EACH]
#
# Needs python3. Takes 40 s.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/churn.py "$@"
