package testimage

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers that tests of the odd image rely on.
const (
	OddLinks = 10_000 // names of the file "links/0"
	OddDepth = 100    // components of the path below "deep"
)

// odd builds the layers of the odd image: 00 holds all kinds of inodes as GNU tar
// writes them with PAX headers; 01 to 04 sparse files in tar's four formats; 05 the same
// attributes without the ACLs' own headers; 06 GNU's long names; 07 is written by Go's
// archive/tar and holds what changes the layers below.
func odd(ctx context.Context, dir string) error {
	work := dir + ".work"
	b := &builder{}
	layer := func(n int, fill func(b *builder), args ...string) error {
		b.root = filepath.Join(work, fmt.Sprint(n))
		if err := os.MkdirAll(b.root, 0o755); err != nil {
			return err
		}
		fill(b)
		b.times(b.root, epoch())
		if b.err != nil {
			return fmt.Errorf("layer %d: %w", n, b.err)
		}
		return packTar(ctx, b.root, layerFile(dir, n), args...)
	}
	sparse := func(name string) func(b *builder) {
		return func(b *builder) { b.sparse("sparse/" + name) }
	}
	if err := errors.Join(
		layer(0, (*builder).inodes),
		layer(1, sparse("gnu"), "--format=gnu", "--sparse"),
		layer(2, sparse("pax-0.0"), "--sparse", "--sparse-version=0.0"),
		layer(3, sparse("pax-0.1"), "--sparse", "--sparse-version=0.1"),
		layer(4, sparse("pax-1.0"), "--sparse", "--sparse-version=1.0"),
		layer(5, (*builder).attributes, "--format=posix", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--xattrs-include=*", "--no-acls"),
		layer(6, (*builder).long, "--format=gnu"),
		oddChanges(layerFile(dir, 7)),
	); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// builder makes files below root; after the first error it does nothing more.
type builder struct {
	root string
	err  error
}

func (b *builder) do(what string, fn func() error) {
	if b.err != nil {
		return
	}
	if err := fn(); err != nil {
		b.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (b *builder) path(name string) string { return filepath.Join(b.root, name) }

func (b *builder) dir(name string, mode uint32) {
	b.do("make directory "+name, func() error {
		if err := os.MkdirAll(b.path(name), 0o755); err != nil {
			return err
		}
		return unix.Chmod(b.path(name), mode)
	})
}

func (b *builder) file(name, content string, mode uint32) {
	b.do("write "+name, func() error {
		if err := os.WriteFile(b.path(name), []byte(content), 0o600); err != nil {
			return err
		}
		return unix.Chmod(b.path(name), mode)
	})
}

func (b *builder) node(name string, mode uint32, major, minor uint32) {
	b.do("make node "+name, func() error {
		if err := unix.Mknod(b.path(name), mode, int(unix.Mkdev(major, minor))); err != nil {
			return err
		}
		return unix.Chmod(b.path(name), mode&0o7777)
	})
}

func (b *builder) symlink(name, target string) {
	b.do("link "+name, func() error { return os.Symlink(target, b.path(name)) })
}

func (b *builder) link(name, target string) {
	b.do("link "+name, func() error { return os.Link(b.path(target), b.path(name)) })
}

func (b *builder) owner(name string, uid, gid uint32) {
	b.do("chown "+name, func() error { return os.Lchown(b.path(name), int(uid), int(gid)) })
}

func (b *builder) xattr(name, attr, value string) {
	b.do("set "+attr+" of "+name, func() error {
		return unix.Lsetxattr(b.path(name), attr, []byte(value), 0)
	})
}

// at sets the modification time of one name, which must come after everything that
// happens in it; see times.
func (b *builder) at(name string, sec int64, nsec int64) {
	b.do("set time of "+name, func() error {
		ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, b.path(name), ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// times gives everything younger than a day one time, so that the result is the same
// each time it is built.
func (b *builder) times(dir string, t time.Time) {
	b.do("set times", func() error {
		recent := time.Now().Add(-24 * time.Hour)
		ts := unix.NsecToTimespec(t.UnixNano())
		return walk(dir, func(path string, st *unix.Stat_t) error {
			if st.Mtim.Sec < recent.Unix() || st.Mtim.Sec > recent.Add(48*time.Hour).Unix() {
				return nil
			}
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		})
	})
}

// inodes fills the first layer.
func (b *builder) inodes() {
	b.dir("kinds", 0o755)
	b.file("kinds/empty", "", 0o644)
	b.file("kinds/one byte", "x", 0o644)
	for _, n := range []int{511, 512, 513, 2047, 2048, 2049, 4095, 4096, 4097, 65536, 1 << 20} {
		b.file(fmt.Sprintf("kinds/file-%d", n), strings.Repeat("abcdefg\n", n/8+1)[:n], 0o644)
	}
	b.file("kinds/zeros", strings.Repeat("\x00", 300_000), 0o644)
	b.node("kinds/fifo", unix.S_IFIFO|0o640, 0, 0)
	b.node("kinds/char", unix.S_IFCHR|0o666, 1, 3)
	b.node("kinds/char-large", unix.S_IFCHR|0o600, 511, 1<<20-1)
	b.node("kinds/block", unix.S_IFBLK|0o660, 7, 300)
	b.symlink("kinds/symlink", "empty")
	b.symlink("kinds/dangling", "../../nothing/here")
	b.symlink("kinds/absolute", "/kinds/empty")
	b.symlink("kinds/loop", "loop")
	b.symlink("kinds/symlink-dir", "../names")
	b.symlink("kinds/symlink-long", strings.Repeat("long/", 800)+"end")
	b.symlink("kinds/symlink-bytes", "\xff\xfe\n\x01")
	b.dir("kinds/empty-dir", 0o755)

	b.dir("modes", 0o755)
	for _, m := range []uint32{0, 0o111, 0o4755, 0o2755, 0o1644, 0o7777} {
		b.file(fmt.Sprintf("modes/file-%04o", m), "#!/bin/sh\n", m)
	}
	for _, m := range []uint32{0o700, 0o1777, 0o2775, 0o7777} {
		b.dir(fmt.Sprintf("modes/dir-%04o", m), m)
	}

	b.dir("owners", 0o755)
	for _, id := range []uint32{1, 1000, 65534, 65535, 65536, 1<<21 - 1, 1 << 21, 1<<31 - 1, 1<<32 - 2} {
		name := fmt.Sprintf("owners/%d", id)
		b.file(name, "", 0o644)
		b.owner(name, id, id)
	}
	b.symlink("owners/symlink", "1")
	b.owner("owners/symlink", 12, 34)

	b.dir("names", 0o755)
	for _, name := range oddNames() {
		b.file("names/"+name, name, 0o644)
	}

	b.dir("deep", 0o755)
	deep := "deep"
	for i := range OddDepth {
		deep = fmt.Sprintf("%s/level-%03d-of-many", deep, i)
		b.dir(deep, 0o755)
		b.file(deep+"/file", deep, 0o644)
	}

	b.dir("links", 0o755)
	b.file("links/0", "one file with many names\n", 0o644)
	for i := 1; i < OddLinks; i++ {
		b.link(fmt.Sprintf("links/%d", i), "links/0")
	}
	b.symlink("links/symlink", "0")
	b.link("links/symlink-linked", "links/symlink")
	b.link("links/fifo", "kinds/fifo")
	b.link("kinds/char-linked", "kinds/char")

	b.attributesIn("attributes")

	b.dir("times", 0o755)
	for name, t := range map[string][2]int64{
		"epoch": {0, 0}, "one-ns": {0, 1}, "before-epoch": {-1, 0}, "half-before": {-2, 500_000_000},
		"1901": {-1 << 31, 0}, "1969-ns": {-1, 999_999_999}, "2038": {1 << 31, 7}, "2106": {1 << 32, 123_456_789},
		"2400": {13_569_465_600, 999_999_999}, "micro": {1_600_000_000, 123_456_000},
	} {
		b.file("times/"+name, name, 0o644)
		b.at("times/"+name, t[0], t[1])
	}
	b.symlink("times/symlink", "epoch")
	b.at("times/symlink", 77, 77)
	b.dir("times/dir", 0o755)
	b.at("times/dir", -5, 5)

	// What the last layer changes.
	for _, d := range []string{"change/opaque/sub", "change/removed/sub", "change/becomes-file/sub", "change/kept", "change/real", "change/meta"} {
		b.dir(d, 0o755)
		b.file(d+"/lower", "lower\n", 0o644)
	}
	for _, f := range []string{"removed-file", "becomes-dir", "becomes-symlink", "replaced", "linked-from-above"} {
		b.file("change/"+f, "lower\n", 0o644)
	}
	b.symlink("change/to-real", "real")
	b.symlink("change/becomes-real-dir", "kept")
}

// oddNames are names of one component that software tends to get wrong.
func oddNames() []string {
	names := []string{
		"new\nline", "tab\there", "carriage\rreturn", "back\\slash", "quote'\"`", " leading", "trailing ", "-dash", "--", "...",
		"*?[a-z]{x,y}", "colon:equal=comma,", "percent%41", "hash#", "$HOME", "semi;colon", "pipe|amp&", "\x01\x02\x1f\x7f",
		"\xff\xfe\x80", "caf\xe9", "café", "cafe\u0301", "日本語", "😀", "\u202egpj.exe", ".hidden", "..x", "~", "wh.name", ".wh", "a.wh.b",
		"GNUSparseFile.0", "PaxHeaders", "LICENSE", "license",
	}
	for _, n := range []int{99, 100, 101, 155, 156, 254, 255} {
		names = append(names, strings.Repeat("n", n))
	}
	return append(names, strings.Repeat("é", 127), strings.Repeat("\xfe", 255))
}

// attributes fills a layer with the same extended attributes as the first, elsewhere.
func (b *builder) attributes() { b.attributesIn("attributes-as-xattrs") }

func (b *builder) attributesIn(dir string) {
	b.dir(dir, 0o755)
	name := func(s string) string { return dir + "/" + s }
	b.file(name("user"), "x", 0o644)
	b.xattr(name("user"), "user.plain", "value")
	b.xattr(name("user"), "user.empty", "")
	b.xattr(name("user"), "user.binary", "\x00\x01\xff\n=\x00")
	b.xattr(name("user"), "user."+strings.Repeat("n", 250), "longest name")
	b.file(name("large"), "x", 0o644)
	b.xattr(name("large"), "user.large", strings.Repeat("0123456789", 300))
	b.file(name("many"), "x", 0o644)
	for i := range 60 {
		b.xattr(name("many"), fmt.Sprintf("user.number-%02d", i), fmt.Sprint(i))
	}
	b.file(name("trusted"), "x", 0o644)
	b.xattr(name("trusted"), "trusted.layer", "t")
	b.xattr(name("trusted"), "trusted.overlay.own", "belongs to the image")
	b.dir(name("dir"), 0o755)
	b.xattr(name("dir"), "user.on-dir", "d")
	b.symlink(name("symlink"), "user")
	b.xattr(name("symlink"), "trusted.on-symlink", "s")

	// Version 2 of the on-disk form, little endian: linux/capability.h, vfs_cap_data.
	b.file(name("capability"), "\x7fELF", 0o755)
	const revision2, effective, netRaw = 0x02000000, 1, 1 << 13
	var c bytes.Buffer
	for _, word := range []uint32{revision2 | effective, netRaw, 0, 0, 0} {
		c.Write(binary.LittleEndian.AppendUint32(nil, word))
	}
	b.xattr(name("capability"), "security.capability", c.String())

	b.file(name("acl"), "x", 0o640)
	b.xattr(name("acl"), "system.posix_acl_access", acl(6, 4, 7, 0))
	b.dir(name("acl-dir"), 0o750)
	b.xattr(name("acl-dir"), "system.posix_acl_access", acl(7, 5, 5, 0))
	b.xattr(name("acl-dir"), "system.posix_acl_default", acl(7, 5, 7, 1))
	// In a directory with a default ACL: an inherited one, and one with none at all.
	b.file(name("acl-dir/inherits"), "x", 0o640)
	b.dir(name("acl-dir/sub"), 0o755)
}

// acl encodes a POSIX ACL as the kernel takes it (linux/posix_acl_xattr.h, version 2):
// the given permissions for owner, group, mask and others, and rwx for user 1000 and r-x
// for group 2000.
func acl(owner, group, mask, other uint16) string {
	const undefined = 1<<32 - 1
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{0x01, owner, undefined}, {0x02, 7, 1000}, {0x04, group, undefined},
		{0x08, 5, 2000}, {0x10, mask, undefined}, {0x20, other, undefined},
	} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

// sparse makes files with holes: tar stores the map of a file with up to 4 regions in
// its header, and longer ones in up to many extension blocks.
func (b *builder) sparse(dir string) {
	b.dir(dir, 0o755)
	b.holes(dir+"/only-hole", 8<<20, nil)
	b.holes(dir+"/data-first", 4<<20, []int64{0})
	b.holes(dir+"/data-last", 4<<20, []int64{4<<20 - 4096})
	b.holes(dir+"/three", 64<<20, []int64{1 << 20, 32 << 20, 64<<20 - 4096})
	var many []int64
	for i := range int64(200) {
		many = append(many, i*64<<10)
	}
	b.holes(dir+"/many", 16<<20, many)
	b.holes(dir+"/odd-size", 3<<20+17, []int64{65536})
	b.holes(dir+"/"+strings.Repeat("long-name-", 20), 1<<20, []int64{8192})
	b.file(dir+"/dense", strings.Repeat("dense\n", 2000), 0o644)
}

func (b *builder) holes(name string, size int64, data []int64) {
	b.do("write sparse "+name, func() (err error) {
		f, err := os.Create(b.path(name))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := f.Truncate(size); err != nil {
			return err
		}
		for _, at := range data {
			if _, err := f.WriteAt(bytes.Repeat(fmt.Appendf(nil, "%015d\n", at), 256), at); err != nil {
				return err
			}
		}
		return f.Sync() // tar finds holes by what the file system has allocated
	})
}

// long fills a layer for GNU's own format: names and targets beyond 100 bytes and ids
// and sizes beyond the octal fields.
func (b *builder) long() {
	b.dir("gnu", 0o755)
	for _, n := range []int{99, 100, 101, 200, 255} {
		b.file("gnu/"+strings.Repeat("g", n), fmt.Sprint(n), 0o644)
		b.symlink(fmt.Sprintf("gnu/to-%d", n), strings.Repeat("g", n))
		b.link(fmt.Sprintf("gnu/linked-%d", n), "gnu/"+strings.Repeat("g", n))
	}
	b.symlink("gnu/far", strings.Repeat("d/", 500))
	b.file("gnu/large-id", "", 0o644)
	b.owner("gnu/large-id", 1<<31, 1<<32-2)
	b.file("gnu/before-epoch", "", 0o644)
	b.at("gnu/before-epoch", -1_000_000, 0)
}

// oddChanges writes the layer that changes those below: whiteouts and an opaque marker,
// entries that replace others of another type, a hard link to a file of a lower layer,
// a name given twice, and places that have no entry of their own.
func oddChanges(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	add := func(typ byte, name, linkname, content string, mode int64) {
		if err == nil {
			err = w.WriteHeader(&tar.Header{
				Typeflag: typ, Name: name, Linkname: linkname, Size: int64(len(content)), Mode: mode,
				ModTime: epoch().Add(time.Hour), Format: tar.FormatPAX,
			})
		}
		if err == nil {
			_, err = w.Write([]byte(content))
		}
	}
	add(tar.TypeDir, "change/", "", "", 0o755)
	add(tar.TypeReg, "change/.wh.removed-file", "", "", 0)
	add(tar.TypeReg, "change/.wh.removed", "", "", 0)
	add(tar.TypeReg, "change/.wh.never-was", "", "", 0)
	add(tar.TypeDir, "change/opaque/", "", "", 0o711)
	add(tar.TypeReg, "change/opaque/upper", "", "upper\n", 0o600)
	add(tar.TypeReg, "change/opaque/.wh..wh..opq", "", "", 0) // after what it does not hide
	add(tar.TypeReg, "change/becomes-file", "", "a file now\n", 0o644)
	add(tar.TypeDir, "change/becomes-dir/", "", "", 0o755)
	add(tar.TypeReg, "change/becomes-dir/in", "", "in\n", 0o644)
	add(tar.TypeSymlink, "change/becomes-symlink", "kept", "", 0o777)
	add(tar.TypeDir, "change/becomes-real-dir/", "", "", 0o755)
	add(tar.TypeReg, "change/replaced", "", "upper\n", 0o600)
	add(tar.TypeLink, "change/linked", "change/linked-from-above", "", 0o644)
	add(tar.TypeDir, "change/meta/", "", "", 0o500) // metadata of a directory alone
	add(tar.TypeReg, "change/twice", "", "first\n", 0o644)
	add(tar.TypeReg, "change/twice", "", "second, and longer\n", 0o600)
	add(tar.TypeReg, "change/kept/added", "", "parent without an entry\n", 0o644)
	add(tar.TypeReg, "implied/by/children/only", "", "x\n", 0o644)
	add(tar.TypeReg, "change/to-real/through-symlink", "", "lies in real\n", 0o644)
	add(tar.TypeReg, "./change/dot-slash", "", "x\n", 0o644)
	return errors.Join(err, w.Close())
}
