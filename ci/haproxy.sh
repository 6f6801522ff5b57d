#!/usr/bin/env bash
# Several instances behind HAProxy, as configs/haproxy.cfg has it, with other ports and for fewer connections, otherwise unchanged: loads three
# instances through it with every byte checked, drains one (SIGTERM) and kills one (SIGKILL) meanwhile.
#
# Fails if the drained instance leaves anything unanswered that had reached it, if wrong bytes arrive, or if the rest does
# not carry on. What a drained or killed instance costs clients is printed.
#
#   ci/haproxy.sh            uses haproxy of the PATH, or what HAPROXY names
#   ci/haproxy.sh --fetch    downloads Debian's package and unpacks it in a folder that is deleted at the end; installs nothing
#
# Needs HAProxy 2.6 or later and python3. Takes half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
if [[ "${1:-}" == --fetch ]]; then
    (
        cd "$scratch"
        apt-get download --quiet --quiet haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
        for package in *.deb; do dpkg-deb --extract "$package" .; done
    )
    export HAPROXY="$scratch/usr/sbin/haproxy"
    export LD_LIBRARY_PATH="$scratch/usr/lib/$(uname -m)-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
export HAPROXY="${HAPROXY:-haproxy}"
if ! command -v "$HAPROXY" >/dev/null; then
    echo "ci/haproxy.sh: there is no $HAPROXY: nothing was checked. Install Debian's haproxy, or say --fetch" >&2
    exit 1
fi
"$HAPROXY" -c -q -f configs/haproxy.cfg
echo "configs/haproxy.cfg is valid for $("$HAPROXY" -v | head -n 1)"

source ci/field/build.sh
python3 ci/field/haproxy.py "$@"
