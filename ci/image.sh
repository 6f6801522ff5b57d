#!/usr/bin/env bash
# The images of the Containerfile, built and run as configs/kubernetes/arena-echo.yaml runs them: its flags and its memory limit,
# not root, nothing writable, no capabilities.
#
# Fails if an image has another file than its program, if a client meets an error, if the server is killed for its memory, if
# /healthz does not answer, or if SIGTERM in the middle of a load does not end it with 0 and all answered.
#
# Needs podman and curl, and the image of the first FROM, which podman fetches if it is not there. Takes a quarter of an hour
# the first time. PODMAN names a podman with options of its own (`podman --runtime runc` where crun does not know the machine's
# cgroups), RUN_FLAGS what else `podman run` is to be given.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra podman <<<"${PODMAN:-podman}"
read -ra run_flags <<<"${RUN_FLAGS:-}"
scratch="$(mktemp -d)"
server=""
trap '[[ -z "$server" ]] || "${podman[@]}" rm --force "$server" >/dev/null || true; rm -rf "$scratch"' EXIT
fail() {
    echo "ci/image.sh: $*" >&2
    [[ -z "$server" ]] || "${podman[@]}" logs "$server" 2>&1 | tail -20 >&2
    exit 1
}
ok() { echo "ok: $*"; }

for program in arena-echo loadgen; do
    "${podman[@]}" build --network host --target "$program" --tag "$program:check" .
    image="$("${podman[@]}" create --pull never "$program:check")"
    # What is not a folder, but for what the runtime puts where it mounts.
    files="$("${podman[@]}" export "$image" | tar --list | grep -vE '/$|^(etc|run|dev)/' | sort | tr '\n' ' ')"
    "${podman[@]}" rm "$image" >/dev/null
    [[ "$files" == "$program " ]] || fail "the image has other files than its program: $files"
    user="$("${podman[@]}" image inspect --format '{{.Config.User}}' "$program:check")"
    [[ "$user" =~ ^[1-9] ]] || fail "$program would run as '$user'"
    bytes="$("${podman[@]}" image inspect --format '{{.Size}}' "$program:check")"
    ok "$program is one file of $((bytes >> 20)) MiB, and runs as $user"
done

manifest=configs/kubernetes/arena-echo.yaml
mapfile -t flags < <(sed -n 's/^ *- \(--[a-z-]*=.*\)$/\1/p' "$manifest")
limit="$(sed -n '/limits:/,$s/^ *memory: *\([0-9]*\)Mi$/\1/p' "$manifest" | head -1)"
[[ ${#flags[@]} -gt 0 && -n "$limit" ]] || fail "$manifest has no flags or no memory limit"
confined=(--network host --read-only --cap-drop all --security-opt no-new-privileges "${run_flags[@]}")
echo "== --memory ${limit}m arena-echo ${flags[*]}"
server="$("${podman[@]}" run --detach --pull never "${confined[@]}" --memory "${limit}m" arena-echo:check "${flags[@]}")"
for _ in {1..100}; do
    curl --silent --fail --output "$scratch/health" http://127.0.0.1:9100/healthz && break
    sleep 0.1
done
[[ -s "$scratch/health" ]] || fail "/healthz does not answer"
ok "/healthz answers: $(cat "$scratch/health")"

load() {
    "${podman[@]}" run --rm --pull never "${confined[@]}" loadgen:check --plain "$@" 127.0.0.1:9000 >"$scratch/report" 2>"$scratch/log" ||
        fail "loadgen $*: $(cat "$scratch/report" "$scratch/log")"
    ok "loadgen $*: $(grep -E '^requests' "$scratch/report")"
}
load -c 100 -p 1 -s uniform:1..256k -w 0s -d 5s
load -c 2000 -p 1 -s 64 -w 0s -n 100000

# A drain in the middle of a load: the clients lose their connections, and the server nothing that it has read.
"${podman[@]}" run --rm --pull never "${confined[@]}" loadgen:check --plain -c 50 -p 16 -s 1000 -w 0s -d 20s 127.0.0.1:9000 \
    >"$scratch/report" 2>&1 &
loader=$!
sleep 3
"${podman[@]}" stop --time 30 "$server" >/dev/null
wait "$loader" || true
read -r status was_killed < <("${podman[@]}" inspect --format '{{.State.ExitCode}} {{.State.OOMKilled}}' "$server")
[[ "$status $was_killed" == "0 false" ]] || fail "the server ended with $status; killed for its memory: $was_killed"
summary="$("${podman[@]}" logs "$server" 2>&1 | grep -oE 'answered [0-9]+ frames on [0-9]+ connections; read [0-9]+ bytes, wrote [0-9]+')"
[[ "$summary" =~ read\ ([0-9]+)\ bytes,\ wrote\ ([0-9]+) && "${BASH_REMATCH[1]}" == "${BASH_REMATCH[2]}" ]] ||
    fail "the server read and wrote different amounts: $summary"
ok "SIGTERM in the middle of a load: exit status 0, $summary"
