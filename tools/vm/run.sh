#!/usr/bin/env bash
# Runs tests in a virtual machine whose kernel has control groups of version 2 with their
# controllers: user-mode Linux of Debian's package, an ordinary program to the host. Prints
# what `go test -json` would, for tools/testreport. `make test-vm` calls it.
#
# The machine's root is the host's, to read; it has a disk and swap space of its own, one
# processor, 1 GiB of memory and no network. A test program that does not end is killed with
# the machine after VM_TIMEOUT (15m).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

# What runs there: package, tests.
tests=(
	"./runtime/cgroup ."
	"./cmd/layerfs ^TestLimits"
)

[ "$(uname -m)" = x86_64 ] || { echo "test-vm: Debian has user-mode Linux for x86_64 alone" >&2; exit 1; }
tools/setup.sh user-mode-linux gcc libc6-dev busybox-static e2fsprogs util-linux >&2

lane=$(mktemp -d /tmp/lfs-vm.XXXXXX)
machine=
cleanup() {
	# The machine's processes are traced by its first, and end with it.
	[ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
	rm -rf --one-file-system "$lane"
}
trap cleanup EXIT

gcc -O2 -Wall -Wextra -Werror -shared -fPIC -Wl,-z,now -o "$lane/xstate.so" "$here/xstate.c"
truncate -s 4G "$lane/disk"
mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1 "$lane/disk"
truncate -s 256M "$lane/swap"
mkswap -q "$lane/swap"
for t in "${tests[@]}"; do
	read -r pkg run <<<"$t"
	name=$(basename "$pkg").test
	CGO_ENABLED=0 go test -c -o "$lane/$name" "$pkg"
	echo "$name $PWD/$pkg -test.v=test2json -test.timeout=10m -test.run=$run" >>"$lane/tests"
done

# Its memory is a file that is mapped; user-mode Linux makes it in TMPDIR.
memory=/dev/shm
[ -w $memory ] || memory=/tmp
LD_PRELOAD=$lane/xstate.so TMPDIR=$memory timeout --signal=KILL "${VM_TIMEOUT:-15m}" \
	linux.uml mem=1024M rootfstype=hostfs rootflags=/ ro "init=$here/init.sh" "LANE=$lane" \
	"ubda=$lane/disk" "ubdb=$lane/swap" con=null con0=null,fd:1 quiet </dev/null >"$lane/console" 2>&1 &
machine=$!
wait "$machine" || true
machine=
grep -a '^vm: ' "$lane/console" | tr -d '\r' || { echo "test-vm: the machine did not start:" >&2; tail -n 40 "$lane/console" >&2; }

failed=0
while read -r name dir _; do
	pkg=github.com/layerfs/layerfs/${dir#"$PWD"/./}
	if [ ! -s "$lane/$name.code" ]; then
		echo "test-vm: $name did not end; the console's last lines:" >&2
		tail -n 40 "$lane/console" >&2
		failed=1
	fi
	[ ! -e "$lane/$name.out" ] || go tool test2json -t -p "$pkg" <"$lane/$name.out"
	[ "$(cat "$lane/$name.code" 2>/dev/null)" = 0 ] || failed=1
done <"$lane/tests"
exit $failed
