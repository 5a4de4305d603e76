#!/bin/sh
# Benchmarks a commit and the work tree, in turns so that a change in the machine's load
# hits both alike, and compares them: bench-compare.sh REF BENCH COUNT PACKAGE…
set -eu
ref=$1 bench=$2 count=$3
shift 3
dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/ref" 2>/dev/null; rm -rf "$dir"' EXIT
git worktree add --quiet --detach "$dir/ref" "$ref"
i=0
while [ $i -lt "$count" ]; do
	i=$((i + 1))
	echo "round $i of $count" >&2
	(cd "$dir/ref" && go test -run='^$' -bench="$bench" -benchmem -timeout=2h "$@") >>"$dir/old.txt" || true
	go test -run='^$' -bench="$bench" -benchmem -timeout=2h "$@" >>"$dir/new.txt"
done
go -C tools tool benchstat "$ref=$dir/old.txt" "work-tree=$dir/new.txt"
