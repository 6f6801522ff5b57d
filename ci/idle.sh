#!/usr/bin/env bash
# What idle connections cost: memory of the server for each, and bytes that they hold in the arena (none, or it fails).
#
# Opens 10,000 connections (or as many as the argument says), which say nothing, then exchange a frame and fall silent
# again, one after another and all at once. With --tls they are encrypted.
#
# Needs python3 and `ulimit -n` of 12,100, and openssl for --tls. Takes half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh
exec python3 ci/field/idle.py "$@"
