#!/bin/sh
# Installs what building and testing layerfs needs from Debian's packages, and prepares
# the machine for rootless tests. Does nothing, quickly, where all is there.
#
#   setup.sh              everything
#   setup.sh PACKAGE…     only these packages
set -eu

if [ "$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi

# One line per reason.
packages="
make git ca-certificates
gcc libc6-dev
attr acl libcap2-bin util-linux mount procps strace
e2fsprogs xfsprogs erofs-utils fuse3
gzip bzip2 xz-utils zstd tar
mmdebstrap busybox-static
skopeo umoci podman crun runc docker.io docker-registry
uidmap
nftables passt slirp4netns curl
tmux
"
#   make git                       the build itself
#   gcc libc6-dev                  the race detector; programs are built without cgo
#   attr acl … strace              oracles for xattrs, ACLs, capabilities, system calls
#   e2fsprogs … fuse3              file systems to test on; EROFS checkers; fusermount3
#   gzip … tar                     oracles for streams and archives
#   mmdebstrap busybox-static      the real images that tests load
#   skopeo … docker-registry       the tools whose images we read and that read ours
#   uidmap                         id mappings for rootless tests
#   nftables passt … curl          an oracle for packet filters; networks of users; a client
#   tmux                           a terminal that tests can look at
[ $# -eq 0 ] || packages="$*"

missing=
for p in $packages; do
	case "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" in
	*" installed") ;;
	*) missing="$missing $p" ;;
	esac
done
if [ -n "$missing" ]; then
	echo "setup: installing$missing" >&2
	# Package lists are often absent or stale on a fresh machine: fetch them only when
	# installing without doing so has failed.
	install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0"
	# A daemon that a package brings must not start: tests start what they need.
	policy=/usr/sbin/policy-rc.d
	made=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
		$as_root chmod 0755 "$policy"
		made=1
	fi
	trap '[ -z "$made" ] || $as_root rm -f "$policy"' EXIT
	# shellcheck disable=SC2086
	$install $missing >/dev/null 2>&1 ||
		{ $as_root apt-get update -qq >&2 && $install $missing >/dev/null; }
fi
[ $# -eq 0 ] || exit 0

# Distributions give these to everybody; minimal machines do not.
for dev in /dev/fuse /dev/net/tun; do
	if [ -c "$dev" ] && [ "$(stat -c %a "$dev")" != 666 ]; then
		$as_root chmod 0666 "$dev"
	fi
done

# The user whom rootless tests run as, with a range of subordinate ids.
user=layerfs-test
if ! id "$user" >/dev/null 2>&1; then
	$as_root useradd --create-home --shell /bin/sh "$user"
fi
for f in /etc/subuid /etc/subgid; do
	grep -qs "^$user:" "$f" || echo "$user:1000000:65536" | $as_root tee -a "$f" >/dev/null
done
