#!/bin/sh
# Builds the programs that the tests of unionfs/fuse/suites run, from pinned sources, in
# a directory that unprivileged test runs can read. Does nothing, quickly, where all is
# there. Needs root.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=/var/cache/layerfs-suites
sources=$dir/sources

"$here/setup.sh" gcc libc6-dev git patch python3 xfslibs-dev libattr1-dev

# fetch NAME ADDRESS COMMIT: has the files of that commit in $sources/NAME.
fetch() {
	rm -rf "${sources:?}/$1" "$sources/$1.commit"
	git init -q "$sources/$1"
	git -C "$sources/$1" fetch -q --depth 1 "$2" "$3"
	git -C "$sources/$1" -c advice.detachedHead=false checkout -q FETCH_HEAD
}

# built NAME COMMIT: nothing has to be done for it.
built() { [ "$(cat "$sources/$1.commit" 2>/dev/null)" = "$2 $(cat "$here"/suites/* "$0" | sha256sum)" ]; }
done_with() { echo "$2 $(cat "$here"/suites/* "$0" | sha256sum)" >"$sources/$1.commit"; }

mkdir -p "$sources" "$dir/bin"

commit=85a8aea9e685999ef0540392fd80535f873d7ff7
if ! built pjdfstest $commit; then
	fetch pjdfstest https://github.com/pjd/pjdfstest $commit
	cp "$here/suites/pjdfstest.h" "$sources/pjdfstest/config.h"
	(cd "$sources/pjdfstest" && gcc -O2 -w -D_GNU_SOURCE -I. pjdfstest.c -o pjdfstest)
	done_with pjdfstest $commit
fi

commit=f48a57d2a7db5f86ff3dbc4444c3c3041e182d7d
if ! built unionmount-testsuite $commit; then
	fetch unionmount-testsuite https://github.com/amir73il/unionmount-testsuite $commit
	patch -s -d "$sources/unionmount-testsuite" -p1 <"$here/suites/unionmount-testsuite.patch"
	done_with unionmount-testsuite $commit
fi

commit=63a29724a85f1999e49bf0a9bf0d22643b6116e5 # v2026.01.05
if ! built xfstests $commit; then
	fetch xfstests https://github.com/kdave/xfstests $commit
	cp "$here/suites/xfstests.h" "$sources/xfstests/config.h"
	for program in fsx fsstress; do
		(cd "$sources/xfstests" && gcc -O2 -w -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. -Isrc -Iinclude \
			"ltp/$program.c" -o "$dir/bin/$program" -lm -lattr)
	done
	done_with xfstests $commit
fi
