#!/bin/sh
# Runs a command in a folder of Debian: enter.sh <empty folder> <folders of /> <clone, or -> <folders over it> <work folder> <command...>
# Folders are joined by colons; of two files of a name the first folder's is seen. The clone becomes /passfd. Call it under unshare(1), with mounts, processes, network and
# System V objects of its own: then nothing that is mounted, written or started here stays behind.
set -eu
space=$1 root=$1/root layers=$2 clone=$3 over=$4 work=$5
shift 5
mount -t tmpfs tmpfs "$space"
mkdir "$root" "$space/upper" "$space/work" "$space/clone-upper" "$space/clone-work"
mount -t overlay -o "lowerdir=$layers,upperdir=$space/upper,workdir=$space/work" overlay "$root"
mkdir -p "$root/passfd" "$root$work"
if [ "$clone" != - ]; then
  mount -t overlay -o "lowerdir=$clone,upperdir=$space/clone-upper,workdir=$space/clone-work" overlay "$root/passfd"
  # overlayfs takes no layers of which one is within the other
  (IFS=:; for folder in $over; do cp -R "$folder/." "$root/passfd"; done)
fi
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
# debootstrap leaves it out, and takes the host's
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
ip link set lo up
# This shell stays: it is the first process, and collects what has lost its parent
chroot "$root" sh -c 'cd "$0" && exec "$@"' "$work" "$@"
