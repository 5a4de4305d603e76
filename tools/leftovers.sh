#!/bin/sh
# Fails when a test run left something behind: leftovers.sh DIR
# DIR was TMPDIR of the run, and LAYERFS_CHECK=DIR was in its environment.
set -u
dir=$(realpath "$1")
bad=0
report() { # report WHAT LINES
	[ -z "$2" ] && return
	bad=1
	echo "left over: $1"
	printf '%s\n' "$2" | head -n 20 | sed 's/^/    /'
}

# Processes: ours carry the mark in their environment. One that is about to end gets
# a second to do so.
ours() {
	for p in /proc/[0-9]*; do
		if { tr '\0' '\n' <"$p/environ"; } 2>/dev/null | grep -qxF "LAYERFS_CHECK=$dir"; then
			ps -o pid=,ppid=,args= -p "${p#/proc/}"
		fi
	done
}
processes=$(ours)
[ -z "$processes" ] || { sleep 1; processes=$(ours); }
report process "$processes"
report mount "$(grep -F " $dir/" /proc/self/mountinfo)"
report 'loop device' "$(losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null | grep -F " $dir/")"
report 'control group' "$(find /sys/fs/cgroup -mindepth 2 -maxdepth 5 -type d -name 'layerfs-test*' 2>/dev/null)"
report 'temporary file' "$(find "$dir" -mindepth 1 -maxdepth 2 2>/dev/null)"
exit $bad
