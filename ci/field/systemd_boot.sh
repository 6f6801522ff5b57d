#!/usr/bin/env bash
# Boots a systemd in namespaces of its own but for the network, on a copy of the root file system. See ci/systemd.sh.
#
#   systemd_boot.sh FOLDER CGROUP...
#
# FOLDER is empty, and so are the control groups, in which everything stays that is started.
set -euo pipefail
folder="$1"
shift

if [[ "${1:-}" != --inside ]]; then
    for cgroup in "$@"; do echo $$ >"$cgroup/cgroup.procs"; done
    # When unshare ends, and if it is killed, everything in it does.
    exec unshare --pid --kill-child --fork --mount --ipc --uts --cgroup -- "$0" "$folder" --inside
fi

mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/{changes,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/changes,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
# Of the new network, and with the control groups as they are seen from here: ours are the roots.
mount -t sysfs -o ro sysfs sys
mount_cgroups() {
    if [[ "$(wc -l </proc/self/cgroup)" == 1 ]]; then
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        return
    fi
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case "$controllers" in
            "") mkdir sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 sys/fs/cgroup/unified ;;
            name=*) mkdir "sys/fs/cgroup/${controllers#name=}" && mount -t cgroup -o "none,$controllers" cgroup "sys/fs/cgroup/${controllers#name=}" ;;
            cpuset) ;;
            *) mkdir "sys/fs/cgroup/$controllers" && mount -t cgroup -o "$controllers" cgroup "sys/fs/cgroup/$controllers" ;;
        esac
    done </proc/self/cgroup
}
mount_cgroups
# Devices that hurt nobody.
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do cp -a "/dev/$device" dev/; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

# Units of the machine are not of interest, and its devices and mounts are not ours to touch.
rm -rf etc/systemd/system etc/fstab
mkdir etc/systemd/system
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-modules-load.service modprobe@.service systemd-sysctl.service systemd-random-seed.service systemd-remount-fs.service \
    systemd-update-utmp.service systemd-tmpfiles-setup-dev.service systemd-machine-id-commit.service \
    systemd-binfmt.service systemd-timesyncd.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
    dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount; do
    ln -s /dev/null "etc/systemd/system/$unit"
done

mkdir -p mnt/before
pivot_root . mnt/before
umount --lazy /mnt/before
# As on a machine: credentials are mounted by a child of systemd, for the services to see.
mount --make-rshared /
# Not a machine: it must not ask for one's devices, passwords or clock.
export container=other
exec "$(command -v /usr/lib/systemd/systemd || command -v /lib/systemd/systemd)" --system --unit=basic.target --show-status=false
