#!/bin/bash
# Runs the programs of OCI's runtime-tools, built from pinned sources, against layerfs and
# crun, and prints what each says of both: its exit code, and how many of its checks passed,
# failed and were skipped. A program is clean when it ends with 0 and no check fails.
# Fails when layerfs has fewer clean programs than crun. Needs root.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
commit=e5b454202754ff211f8dbeb98a398b5c3d346b79 # the last that asks for version 1.1 of the specification, which Debian's crun has
dir=/var/cache/layerfs-validation/$commit
[ "$(id -u)" = 0 ] || { echo "validate.sh needs root" >&2; exit 1; }
"$here/setup.sh" git ca-certificates crun util-linux

if [ ! -e "$dir/built" ]; then
	mkdir -p "$dir/programs"
	git init -q "$dir/source"
	git -C "$dir/source" fetch -q --depth 1 https://github.com/opencontainers/runtime-tools $commit
	git -C "$dir/source" -c advice.detachedHead=false checkout -q FETCH_HEAD
	(
		cd "$dir/source"
		export CGO_ENABLED=0 GOFLAGS=-mod=vendor
		go build -o "$dir/runtimetest" ./cmd/runtimetest
		for program in validation/*/; do
			name=$(basename "$program")
			[ "$name" = util ] || go build -o "$dir/programs/$name" "./$program"
		done
	)
	touch "$dir/built"
fi

work=$(mktemp -d)
cleanup() { rm -rf --one-file-system "$work"; }
trap cleanup EXIT
cp "$dir/runtimetest" "$dir/source/rootfs-amd64.tar.gz" "$work"
printf '#!/bin/sh\nexec %q oci "$@"\n' "$here/../bin/layerfs" >"$work/layerfs"
chmod +x "$work/layerfs"
ln -s "$(command -v crun)" "$work/crun"

# crun refuses machines whose version 2 hierarchy of control groups is not all of them: it
# runs where that is not mounted.
[ ! -e /sys/fs/cgroup/unified ] || hide='umount /sys/fs/cgroup/unified;'

declare -A clean=([crun]=0 [layerfs]=0)
cd "$work"
printf '%-34s %-26s %s\n' program crun layerfs
for program in "$dir"/programs/*; do
	line=
	for runtime in crun layerfs; do
		code=0
		before=
		[ $runtime = layerfs ] || before=${hide-}
		RUNTIME=$work/$runtime unshare --mount --propagation slave \
			sh -c "$before exec timeout 60 $program" >out 2>err || code=$?
		passed=$(grep -c '^ok' out) || true
		failed=$(grep -c '^not ok' out) || true
		skipped=$(grep -ci '# skip' out) || true
		if [ $code = 0 ] && [ "$failed" = 0 ]; then clean[$runtime]=$((clean[$runtime] + 1)); fi
		line+=$(printf '%-26s ' "$code: $passed ok, $failed not, $skipped skipped")
	done
	printf '%-34s %s\n' "$(basename "$program")" "$line"
done
echo "clean: crun ${clean[crun]}, layerfs ${clean[layerfs]}"
[ "${clean[layerfs]}" -ge "${clean[crun]}" ]
