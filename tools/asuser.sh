#!/bin/sh
# Runs a test program as the unprivileged user of the rootless tests. `go test -exec`
# calls it as root with the program and its arguments, in the package's directory.
# The program is copied because the user cannot reach root's build directory.
set -eu
user=layerfs-test
uid=$(id -u $user)
gid=$(id -g $user)

dir=$(mktemp -d "${TMPDIR:-/tmp}/rootless.XXXXXX")
# shellcheck disable=SC2064
trap "rm -rf '$dir'" EXIT
install -m 0755 "$1" "$dir/$(basename "$1")"
program=$dir/$(basename "$1")
shift
mkdir -m 0700 "$dir/tmp" "$dir/run"
chown "$uid:$gid" "$dir" "$dir/tmp" "$dir/run"

# env -i: nothing of root's environment (caches, runtime directory) leaks in.
env -i \
	PATH="$PATH" HOME="$(getent passwd $user | cut -d: -f6)" USER=$user LOGNAME=$user \
	TMPDIR="$dir/tmp" XDG_RUNTIME_DIR="$dir/run" CI="${CI:-}" \
	LAYERFS_CHECK="${LAYERFS_CHECK:-}" \
	setpriv --reuid="$uid" --regid="$gid" --init-groups --inh-caps=-all \
	"$program" "$@"
