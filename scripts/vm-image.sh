#!/bin/sh
# Makes a Debian 12 for tests/vm: DIRECTORY/{disk.ext4,vmlinuz,initrd.img}, about 1 GiB and five minutes, once.
# scripts/vm-image.sh DIRECTORY. As root; from the archive that this machine's own apt uses if that is Debian 12's.
set -eu
cd "$(dirname "$0")/.."
directory=$1
key=$(cat scripts/vm-image.sh tests/vm/agent.py | sha256sum | cut -c1-16)
[ "$(cat "$directory/key" 2>/dev/null)" != "$key" ] || exit 0
for program in mmdebstrap mkfs.ext4; do
    command -v "$program" >/dev/null || { echo "vm-image: $program is missing: apt-get install mmdebstrap e2fsprogs" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "vm-image: run it as root" >&2; exit 1; }

rm -rf --one-file-system "$directory"
mkdir -p "$directory"
root=$directory/root
trap 'rm -rf --one-file-system "$root"' EXIT  # mmdebstrap mounts in it while it works
# What docs/installing.md has its reader install is here already, the guest has no network: python3-venv to git.
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,kmod,login,procps,iproute2,curl,e2fsprogs
packages=$packages,initramfs-tools,linux-image-cloud-amd64,sudo,nginx-light,python3-venv,gcc,libc6-dev,make,git
archive=/etc/apt/sources.list.d/debian.sources
grep -qs '^Suites:.*bookworm' "$archive" || archive=
echo "vm-image: installing Debian 12 into $directory" >&2
mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" \
    --aptopt='Apt::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$root" ${archive:+"$archive"}

rm -f "$root/etc/resolv.conf"
echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost debian\n::1 localhost\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 defaults 0 1\n/dev/vdb /payload ext4 ro 0 0\n' >"$root/etc/fstab"
mkdir -p "$root/payload" "$root/usr/local/lib/agent"
cp tests/vm/agent.py "$root/usr/local/lib/agent/agent.py"
# Python's packages come from a folder: what pip would fetch for somebody with a network.
printf '[global]\nno-index = true\nfind-links = /payload/wheels\n' >"$root/etc/pip.conf"
cat >"$root/etc/systemd/system/agent.service" <<'UNIT'
[Unit]
RequiresMountsFor=/payload
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/agent/agent.py /dev/ttyS1
Environment=HOME=/root LANG=C.UTF-8
WorkingDirectory=/root
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable agent.service
chroot "$root" systemctl --quiet disable nginx.service apt-daily.timer apt-daily-upgrade.timer
chroot "$root" useradd --create-home --shell /bin/bash anna
cp "$root"/boot/vmlinuz-* "$directory/vmlinuz"
cp "$root"/boot/initrd.img-* "$directory/initrd.img"
rm -rf "$root"/boot/* "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/*
truncate -s 3G "$directory/disk.ext4"
mkfs.ext4 -q -F -d "$root" "$directory/disk.ext4"
echo "$key" >"$directory/key"
