#!/usr/bin/env bash
# Clients that others wrote, against the real server: each sends frames of several sizes, from none to the largest that the
# server answers, one at a time and then all at once, and compares every byte of the echo.
#
# | Client                                       | Needs                                         |
# |----------------------------------------------|-----------------------------------------------|
# | Rust, tokio-util's LengthDelimitedCodec      | nothing                                       |
# | Python, multiprocessing.connection           | python3                                       |
# | Python, Twisted's Int32StringReceiver        | python3 with venv, and PyPI or its mirror     |
# | Node.js, frame-stream                        | node, npm, and the registry or its mirror     |
# | Erlang, gen_tcp with {packet, 4}             | escript (or its path in ESCRIPT)              |
#
# Takes half a minute. What is missing is said and left out; a client that does not start or meets another byte than it sent
# fails the script. Twisted and frame-stream are installed in a folder that is deleted at the end; INTEROP_CACHE names one
# that stays.
set -euo pipefail
cd "$(dirname "$0")/.."
source ci/field/build.sh

twisted="twisted==25.5.0"
frame_stream="frame-stream@4.0.1"

scratch="$(mktemp -d)"
cache="${INTEROP_CACHE:-$scratch}"
server=""
trap '[[ -z "$server" ]] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT

failed=0
passed=0
left_out=0
leave_out() {
    echo "left out: $*" >&2
    left_out=$((left_out + 1))
}

# client NAME COMMAND.. : runs it with the port and the sizes.
client() {
    local name="$1"
    shift
    if timeout 60 "$@" "$port" $sizes; then
        passed=$((passed + 1))
    else
        echo "FAILED: $name" >&2
        failed=$((failed + 1))
    fi
}

# serve FLAGS.. : starts the server, and sets `server` and `port`.
serve() {
    : >"$scratch/announced"
    "$ARENA_ECHO" --listen 127.0.0.1:0 "$@" >"$scratch/announced" 2>"$scratch/log" &
    server=$!
    for _ in $(seq 100); do
        port="$(sed -n 's/^listening on .*://p' "$scratch/announced")"
        [[ -n "$port" ]] && return
        sleep 0.1
    done
    echo "ci/interop.sh: the server did not start: $(cat "$scratch/log")" >&2
    exit 1
}

clients() {
    client tokio-util "$codec_client"
    if command -v python3 >/dev/null; then
        client multiprocessing.connection python3 ci/interop/multiprocessing_client.py
    else
        leave_out "multiprocessing.connection: there is no python3"
    fi
    [[ -n "$python" ]] && client Twisted "$python" ci/interop/twisted_client.py
    [[ -n "$modules" ]] && client frame-stream env NODE_PATH="$modules" node ci/interop/frame_stream_client.js
    [[ -n "$escript" ]] && client Erlang "$escript" ci/interop/erlang_client.escript
    true
}

cargo build --quiet --release --locked --package arena-echo --example codec_client
codec_client="$target/examples/codec_client"

python=""
if [[ -x "$cache/venv/bin/python" ]] ||
    { python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$twisted"; } >&2; then
    python="$cache/venv/bin/python"
else
    leave_out "Twisted: it could not be installed"
fi

modules=""
if ! command -v npm >/dev/null; then
    leave_out "frame-stream: there is no npm"
elif [[ -d "$cache/npm/node_modules/frame-stream" ]] ||
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$cache/npm" "$frame_stream" >&2; then
    modules="$cache/npm/node_modules"
else
    leave_out "frame-stream: it could not be installed"
fi

escript="$(command -v "${ESCRIPT:-escript}" || true)"
[[ -n "$escript" ]] || leave_out "Erlang: there is no escript"

for mode in buddy fixed copy; do
    sizes="0 1 3 4 5 252 253 1000 4096 65531 65532 65533 65536"
    case "$mode" in
        buddy) flags=(--mode buddy) sizes+=" 100000 1048572 1048576" ;;
        fixed) flags=(--mode fixed --slot-size 64k) ;;
        copy) flags=(--mode fixed --slot-size 4k --max-frame 1MiB --spill 8MiB --reply copy) sizes+=" 1048576" ;;
    esac
    echo "== arena-echo ${flags[*]}"
    serve "${flags[@]}"
    clients
    kill -TERM "$server"
    wait "$server" || { echo "FAILED: the server exits with $?" >&2; failed=$((failed + 1)); }
    server=""
    if grep -E 'WARN|ERROR' "$scratch/log"; then
        echo "FAILED: the server had to complain" >&2
        failed=$((failed + 1))
    fi
done

echo "== $passed passed, $failed failed, $left_out clients left out"
((failed == 0))
