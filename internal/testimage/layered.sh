#!/bin/bash
# Builds a Debian image layer by layer, as a Dockerfile of apt-get lines would:
#
#   layered.sh OUT released|updated
#
# leaves the layers as overlay upper directories OUT/00 (an ordinary directory), OUT/01, …
# "released" installs what the release was published with and upgrades a few packages in
# a late layer; "updated" has all updates from the start: the two images differ by about
# 30 of 560 packages. Runs in a mount namespace of its own (unshare --mount),
# so that nothing stays mounted however it ends.
set -euo pipefail
out=$1
kind=$2

# The updates' sources are put aside for the late layer.
hook=true
if [ "$kind" = released ]; then
	hook='sed -i.updates -E "/-(updates|security) /d" "$1/etc/apt/sources.list"'
fi
mmdebstrap --quiet --variant=minbase --setup-hook="$hook" bookworm "$out/base.tar"

mkdir "$out/00" "$out/root" "$out/work" "$out/lists" "$out/debs"
tar -xf "$out/base.tar" -C "$out/00" --numeric-owner --xattrs --xattrs-include='*' --acls
cat >"$out/00/etc/dpkg/dpkg.cfg.d/testimage" <<'END'
# The whole image is thrown away when its building is interrupted.
force-unsafe-io
END
printf '#!/bin/sh\nexit 101\n' >"$out/00/usr/sbin/policy-rc.d" # no daemons
chmod 0755 "$out/00/usr/sbin/policy-rc.d"
: >"$out/00/etc/resolv.conf"
lower=$out/00
number=0

# layer COMMAND runs a shell command in the image and keeps what it changed as a layer.
layer() {
	number=$((number + 1))
	local upper
	upper=$out/$(printf %02d $number)
	mkdir "$upper"
	rm -rf "$out/work" && mkdir "$out/work"
	# What tools expect of a layer: whole files, no redirects. Nothing needs to be
	# durable yet.
	mount -t overlay overlay "$out/root" -o \
		"lowerdir=$lower,upperdir=$upper,workdir=$out/work,redirect_dir=off,metacopy=off,index=off,volatile"
	mount -t proc proc "$out/root/proc"
	mount --bind "$out/lists" "$out/root/var/lib/apt/lists"
	mount --bind "$out/debs" "$out/root/var/cache/apt/archives"
	mount --bind /etc/resolv.conf "$out/root/etc/resolv.conf"
	local start=$SECONDS
	if ! env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
		http_proxy="${http_proxy:-}" DEBIAN_FRONTEND=noninteractive \
		chroot "$out/root" /bin/bash -euo pipefail -c "$1" >"$out/log" 2>&1; then
		echo "layer $number failed: $1" >&2
		tail -n 30 "$out/log" >&2
		exit 1
	fi
	umount "$out/root/etc/resolv.conf" "$out/root/var/cache/apt/archives" "$out/root/var/lib/apt/lists" \
		"$out/root/proc" "$out/root"
	echo "layer $number: $((SECONDS - start)) s" >&2
	lower=$upper:$lower
}

apt='apt-get -qq -y --no-install-recommends -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache='

layer "$apt update; $apt install ca-certificates tzdata locales less procps iputils-ping acl"
layer "$apt install python3 python3-venv python3-pip"
layer "$apt install gcc libc6-dev make"
layer "$apt install git vim perl"
layer "$apt install nodejs npm"
layer "$apt install python3-numpy python3-sympy python3-django"
layer "$apt install libboost1.74-dev golang-1.19-src manpages manpages-dev perl-doc"
# Deletions and replacements: whiteouts, opaque directories, a file where a directory
# was and the other way round, a directory that moved, metadata alone.
layer '
	rm -r /usr/share/doc/git /usr/share/vim/vim90/tutor /usr/share/man/man3
	rm -r /usr/share/perl/5.36/unicore && mkdir /usr/share/perl/5.36/unicore && echo new >/usr/share/perl/5.36/unicore/only
	rm -r /usr/share/doc/manpages-dev && echo a file >/usr/share/doc/manpages-dev
	rm /usr/bin/vimdiff && mkdir /usr/bin/vimdiff && echo in >/usr/bin/vimdiff/it
	mv /usr/include/boost/mpl /usr/include/boost/mpl-moved
	rm -r /usr/share/doc/nodejs && ln -s git-is-gone /usr/share/doc/nodejs
	chmod 0700 /usr/bin/gcc-12
	chown 1000:1000 /usr/bin/git
	ln /usr/bin/perl /usr/bin/perl-linked
	setfacl -m u:1000:rx /usr/bin/make
	find /usr/share/locale -name "*.mo" -delete
'
# Upgrades: the same names with other contents.
layer "[ ! -e /etc/apt/sources.list.updates ] || mv /etc/apt/sources.list.updates /etc/apt/sources.list
	$apt update; $apt install --only-upgrade tzdata openssl libexpat1 python3-django"
layer "$apt purge npm; $apt autoremove; touch /etc/last-layer"
rm -rf "$out/work" "$out/root" "$out/lists" "$out/debs" "$out/log" "$out/base.tar"
