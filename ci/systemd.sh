#!/usr/bin/env bash
# The units of configs/ under a systemd of their own: in namespaces, on a copy of the root file system that is written to
# memory and forgotten. Nothing of this machine's systemd, files, network or services is touched.
#
# Starts, reloads, drains and restarts the service as configs/arena-echo.service confines it; stops it with SIGSTOP until the
# watchdog sees it; has it started by configs/arena-echo.socket, and restarted while clients connect; reads a certificate as
# a credential. Fails if anything differs from what the units say of themselves.
#
#   ci/systemd.sh
#
# Needs root, Linux with overlayfs, systemd 250 or later, unshare and nsenter (util-linux), ip (iproute2), openssl and python3. Takes half a
# minute.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in systemctl unshare nsenter ip openssl python3; do
    command -v "$program" >/dev/null || {
        echo "ci/systemd.sh: there is no $program: nothing was checked. Install it and try again" >&2
        exit 1
    }
done
if [[ "$(id -u)" != 0 ]]; then
    echo "ci/systemd.sh: only root can have namespaces with file systems and cgroups: nothing was checked. Try sudo" >&2
    exit 1
fi

source ci/field/build.sh
# The network is new: only what is started here listens and connects.
exec unshare --net -- bash -c "ip link set lo up && exec python3 ci/field/systemd.py"
