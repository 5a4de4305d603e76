#!/usr/bin/env bash
# Everything CI asks, in order; a step that fails does not keep the others from running,
# so that one run shows all there is to mend. `make check` calls it.
set -uo pipefail

# The steps' own temporary directory: what is in it, or mounted or running from it,
# at the end was left behind. Short, since sockets' paths are limited to 107 bytes.
dir=$(mktemp -d /tmp/lfs.XXXXXX)
chmod 0711 "$dir"
mkdir -m 1777 "$dir/t"
mkdir "$dir/results"
cleanup() { rm -rf --one-file-system "$dir"; }
trap cleanup EXIT

failed=()
step() { # step TARGET…
	local start=$SECONDS
	printf '\n== %s\n' "$*"
	if ! TMPDIR=$dir/t LAYERFS_CHECK=$dir/t RESULTS=$dir/results make --no-print-directory "$@"; then
		failed+=("$1")
		echo "== $1 FAILED after $((SECONDS - start)) s"
	else
		echo "== $1 done in $((SECONDS - start)) s"
	fi
}

step build
step vet
step lint
step archtest
step images
step test
if [ "$(id -u)" = 0 ]; then step test-rootless; fi
step test-race
step test-tools
step fuzz-smoke

printf '\n== leftovers\n'
if tools/leftovers.sh "$dir/t"; then echo "nothing left behind"; else failed+=(leftovers); fi

printf '\n== summary\n'
if ((${#failed[@]})); then echo "failed: ${failed[*]}"; fi
go -C tools run ./testreport -dir "$dir/results" || failed+=(tests)
((${#failed[@]} == 0))
