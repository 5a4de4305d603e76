#!/bin/sh
# The first process of the virtual machine of `make test-vm`: makes of a bare kernel what
# tests expect of a machine, runs each test program that the host has put into the lane's
# directory, and switches off. The root is the host's own, to read; LANE is the directory
# on the host, from the kernel's command line.
#
#   LANE/tests      lines of PROGRAM DIRECTORY ARGUMENT…
#   LANE/PROGRAM    a static test program, run in the DIRECTORY
#   LANE/PROGRAM.out, LANE/PROGRAM.code    what it printed, and its exit code
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/lane
mount -t hostfs -o "$LANE" lane /run/lane
mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox ip link set lo up

# The disk is for what the host's file system cannot show: extended attributes, devices
# with rates. Nothing of it is kept.
mount -t ext4 /dev/ubda /mnt
mount --bind /mnt /tmp
mount -t tmpfs tmpfs /mnt
mount -t tmpfs tmpfs /var/tmp
chmod 1777 /tmp /var/tmp
swapon /dev/ubdb

# Modules lie where neither kmod nor busybox look for them.
modules=/usr/lib/uml/modules/$(uname -r)
load() {
	for m in $(sed -n "s,^\(kernel/[^:]*/$1\.ko\):,\1,p" "$modules/modules.dep" | tr ' ' '\n' | busybox tac); do
		busybox insmod "$modules/$m" 2>/dev/null # there already: of another's needs
	done
}
for m in overlay fuse erofs loop veth bridge tun; do load $m; done

echo "vm: Linux $(uname -r), control groups of version 2 with $(cat /sys/fs/cgroup/cgroup.controllers), $(cut -d' ' -f1 /proc/uptime) s after the start"
export TMPDIR=/tmp LAYERFS_VM=1
while read -r program dir args; do
	cd "$dir"
	# shellcheck disable=SC2086
	"/run/lane/$program" $args >"/run/lane/$program.out" 2>&1 </dev/null
	echo $? >"/run/lane/$program.code"
	echo "vm: $program has ended, $(cut -d' ' -f1 /proc/uptime) s after the start"
done </run/lane/tests
sync
busybox poweroff -f
