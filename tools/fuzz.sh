#!/bin/sh
# Runs every fuzz target of the module for a given time each: fuzz.sh TIME [NAME-PATTERN]
# Targets are found by their declaration, so a new one needs no list to be kept.
set -eu
time=$1
pattern=${2:-.}

targets=$(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . |
	grep -v '^\./tools/' |
	sed -E 's/^(.*)\/[^/]*\.go:[0-9]+:func (Fuzz.*)$/\1 \2/' | sort | grep -E "$pattern") || {
	echo "fuzz: no target matches $pattern" >&2
	exit 1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
count=0
failed=
while read -r dir name; do
	count=$((count + 1))
	# The go command sometimes reports its own deadline as a failure when the time is
	# up; such a run found no input, so it is tried once more.
	for try in 1 2; do
		if go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$dir" >"$log" 2>&1; then
			echo "ok   $dir $name $(grep -oE 'execs: [0-9]+' "$log" | tail -n 1)"
			break
		fi
		if [ $try = 1 ] && grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
			continue
		fi
		echo "FAIL $dir $name"
		cat "$log"
		failed="$failed $name"
		break
	done
done <<EOF
$targets
EOF
echo "fuzz: $count targets, $time each"
[ -z "$failed" ] || { echo "fuzz: failed:$failed" >&2; exit 1; }
