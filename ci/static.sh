#!/usr/bin/env bash
# The programs as the images of the Containerfile have them, without a container: built by its very command, static, alone in an
# empty folder that is their root, and not as root.
#
# Fails if they need anything else: the server must serve with and without TLS, answer /healthz, take SIGHUP and end at SIGTERM; the
# generator must find it by a name of /etc/hosts, which a container has, and meet no error.
#
# Needs a C compiler (for ring) with glibc's static library (Debian's libc6-dev), readelf, openssl, python3, and root or user
# namespaces. Takes some minutes the first time, then ten seconds. STATIC names a folder with both programs that are built already.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch="$(mktemp -d)"
server=""
trap '[[ -z "$server" ]] || kill -KILL "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
fail() {
    echo "ci/static.sh: $*" >&2
    cat "$scratch"/log* >&2 2>/dev/null || true
    exit 1
}
ok() { echo "ok: $*"; }

if [[ -z "${STATIC:-}" ]]; then
    TARGET="$(sed -n 's/^ARG TARGET=//p' Containerfile)"
    build="$(sed -n '/^RUN /,/--package/{s/^RUN //; s/\\$//; p}' Containerfile | tr -s '\n ' ' ')"
    [[ "$build" == *crt-static*"cargo build"* ]] || fail "there is no command to build in the Containerfile: $build"
    echo "== $build"
    eval "$build"
    STATIC="${CARGO_TARGET_DIR:-target}/$TARGET/release"
fi

root="$scratch/root"
mkdir --parents "$root/tls" "$root/etc"
cp "$STATIC/arena-echo" "$STATIC/loadgen" "$root/"
for program in arena-echo loadgen; do
    needs="$(readelf --wide --program-headers --dynamic "$root/$program" | grep -E 'INTERP|NEEDED' || true)"
    [[ -z "$needs" ]] || fail "$program is not static: $needs"
    ok "$program is static, $(($(stat --format %s "$root/$program") >> 20)) MiB"
done

# What a container's runtime mounts: names, and certificates.
echo "127.0.0.1 echo.example" >"$root/etc/hosts"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=echo.example \
    -addext subjectAltName=DNS:echo.example -keyout "$root/tls/key.pem" -out "$root/tls/cert.pem" 2>/dev/null
chmod -R u=rwX,go=rX "$scratch"
user="$(sed -n 's/^USER //p' Containerfile | sort -u)"

# alone PROGRAM ARGUMENTS.. : in that folder, and not as root. Becomes the program, so that its id is that of the job.
alone() {
    if (($(id -u) == 0)); then
        exec env -i PATH="$PATH" "${variables[@]}" setpriv --no-new-privs chroot --userspec="$user" "$root" "$@"
    fi
    exec env -i PATH="$PATH" "${variables[@]}" unshare --user --map-current-user --root="$root" "$@"
}
# As the image sets it.
variables=("$(sed -n 's/^ENV //p' Containerfile)")

serve() {
    : >"$scratch/announced"
    (alone /arena-echo --listen 127.0.0.1:0 --admin 127.0.0.1:0 "$@") >"$scratch/announced" 2>"$scratch/log" &
    server=$!
    for _ in {1..100}; do
        admin="$(sed -n 's/^admin on .*://p' "$scratch/announced")"
        port="$(sed -n 's/^listening on .*://p' "$scratch/announced")"
        [[ -n "$admin" ]] && return
        sleep 0.1
    done
    fail "the server did not start"
}

end() {
    kill -TERM "$server"
    wait "$server" || fail "the server exits with $?"
    server=""
    ! grep -E 'WARN|ERROR' "$scratch/log" || fail "the server had to complain"
}

(alone /arena-echo config --print) >"$scratch/effective"
grep --quiet '^listen = \[":9000"\]' "$scratch/effective" || fail "the image does not listen on :9000: $(cat "$scratch/effective")"
ok "the configuration of the image works"

serve
owner="$(sed -n 's/^Uid:\s*\([0-9]*\).*/\1/p' "/proc/$server/status")"
[[ "$owner" != 0 && "$(readlink "/proc/$server/root")" == "$root" ]] || fail "it runs as $owner in $(readlink "/proc/$server/root")"
ok "the server runs as user $owner, alone in its root"
exec 3<>"/dev/tcp/127.0.0.1/$admin"
printf 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n' >&3
read -r -t 10 status <&3
exec 3>&-
[[ "$status" == "HTTP/1.1 200 "* ]] || fail "/healthz: $status"
ok "/healthz: ${status%$'\r'}"
(alone /loadgen --plain -c 20 -p 4 -w 0s -d 2s -s uniform:0..100k "echo.example:$port") >"$scratch/log-load" 2>&1 ||
    fail "the generator exits with $?"
ok "the generator finds it by name: $(sed -n 's,^requests *,,p' "$scratch/log-load")"
end
ok "it ends at SIGTERM, with 0"

serve --tls-cert /tls/cert.pem --tls-key /tls/key.pem
kill -HUP "$server"
python3 - "$root/tls/cert.pem" "$port" <<'PYTHON' || fail "no echo over TLS"
import os, socket, ssl, struct, sys

context = ssl.create_default_context(cafile=sys.argv[1])
payload = os.urandom(100_000)
frame = struct.pack("!I", len(payload)) + payload
with socket.create_connection(("127.0.0.1", int(sys.argv[2])), 10) as plain:
    with context.wrap_socket(plain, server_hostname="echo.example") as stream:
        stream.sendall(frame)
        reply = b""
        while len(reply) < len(frame) and (part := stream.recv(1 << 16)):
            reply += part
        assert reply == frame
        print("ok: an echo over", stream.version())
PYTHON
for _ in {1..100}; do
    grep --quiet 'reload: done' "$scratch/log" && break
    sleep 0.1
done
grep --quiet 'reload: done' "$scratch/log" || fail "SIGHUP did nothing"
ok "SIGHUP reads the configuration and the certificates again"
end
