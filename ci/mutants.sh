#!/usr/bin/env bash
# Breaks each rule of the arena's core on purpose, and shows which check notices.
#
# The list is arena/mutants.toml, beside the code. All mutations are built at once into a copy of the tree, each behind
# a switch, so this builds twice (for the models, and for the other tests) however long the list is. Then each check
# runs once without a mutation, and once with each that it must kill.
#
#   ci/mutants.sh                  all, about half an hour on two cores; exits with 1 if one survives without a reason
#   ci/mutants.sh NAME...          those whose names contain one of these
#   ci/mutants.sh --check-list     only whether the list still fits the code: under a second, no build
#
# Needs python3 (3.11), and what the tests need. .ci/run does not run it: it takes too long. ci/check.sh checks the list.
# For mutations that nobody has thought of: cargo mutants --package arena --file 'arena/src/{claim,wait}/**' (registry).
set -euo pipefail
cd "$(dirname "$0")/.."

exec python3 ci/mutants.py "$@"
