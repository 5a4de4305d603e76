package unionfstest

import (
	"bytes"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Users and groups of the cases. They own nothing on the machine.
const (
	alice, bob  = 4711, 4712
	staff, dogs = 5001, 5002
)

// ownedLayer has files of several owners and modes.
func ownedLayer() [][]Entry {
	return [][]Entry{{
		Dir("open", 0o777), File("open/all", 0o666, "all"), File("open/alices", 0o600, "hers", Owner(alice, staff)),
		File("open/suid", 0o6777, "suid", Owner(alice, staff), Mode(0o6777)), File("open/sgid", 0o2777, "sgid", Owner(bob, staff), Mode(0o2777)),
		Dir("sticky", 0o1777), File("sticky/alices", 0o666, "hers", Owner(alice, staff)), File("sticky/bobs", 0o666, "his", Owner(bob, staff)),
		Dir("shared", 0o2775, Owner(alice, staff), Mode(0o2775)), File("shared/file", 0o664, "shared", Owner(alice, staff)),
		Dir("closed", 0o700, Owner(alice, staff)), File("closed/file", 0o644, "in there", Owner(alice, staff)),
		Dir("readonly", 0o555, Owner(alice, staff)), File("readonly/file", 0o444, "read", Owner(alice, staff)),
	}}
}

func permissionCases() theme {
	return theme{"permissions", []testCase{
		{name: "access of others", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(bob, bob, nil, Read("open/alices")), As(alice, alice, nil, Read("open/alices")), As(bob, bob, nil, Append("open/alices", "!")), As(alice, alice, nil, Append("open/alices", "!")),
			As(bob, bob, nil, Read("closed/file")), As(alice, alice, nil, Append("closed/file", "!")), As(bob, bob, nil, Append("open/all", "!")), As(bob, bob, nil, Chmod("open/all", 0o600)),
			As(alice, alice, nil, WriteFile("readonly/new", "")), As(alice, alice, nil, Unlink("readonly/file")), As(bob, bob, nil, Unlink("open/alices")), As(alice, alice, nil, Chmod("readonly/file", 0o644)),
			As(bob, bob, nil, Rename("closed/file", "open/x")), As(bob, bob, nil, Utimes("open/alices", epoch())), As(bob, bob, nil, Setxattr("open/all", "user.x", "y", 0)), As(bob, bob, nil, Setxattr("readonly/file", "user.x", "y", 0)),
		}},
		{name: "new files belong to their maker", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(bob, dogs, nil, WriteFile("open/new", "x"), Mkdir("open/dir"), MakeSymlink("x", "open/link"), Mknod("open/fifo", unix.S_IFIFO|0o644, 0, 0)), Stat("open/new"), Stat("open/dir"), Stat("open/link"), Stat("open/fifo"),
			As(alice, staff, nil, Unlink("open/new"), WriteFile("open/new", "y")), Stat("open/new"),
		}},
		{name: "sticky directory", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(bob, bob, nil, Unlink("sticky/alices")), As(bob, bob, nil, Rename("sticky/alices", "sticky/x")), As(bob, bob, nil, Rename("sticky/bobs", "sticky/alices")), As(bob, bob, nil, Append("sticky/alices", "!")),
			As(bob, bob, nil, Rename("sticky/bobs", "sticky/mine")), As(alice, alice, nil, Unlink("sticky/mine")), As(bob, bob, nil, Unlink("sticky/mine")), As(alice, alice, nil, Unlink("sticky/alices")),
		}},
		{name: "supplementary groups", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(bob, bob, nil, Append("shared/file", "1")), As(bob, bob, []int{staff}, Append("shared/file", "2")), As(bob, bob, []int{staff, dogs}, WriteFile("shared/new", "x")), Stat("shared/new"),
			As(bob, bob, []int{dogs}, WriteFile("shared/new2", "x")), As(bob, bob, []int{staff}, Chown("shared/new", -1, dogs)), As(bob, bob, []int{staff, dogs}, Chown("shared/new", -1, dogs)), Stat("shared/new"),
		}},
		{name: "set-group-id directory", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			WriteFile("shared/root", "x"), Stat("shared/root"), Mkdir("shared/dir"), Stat("shared/dir"), As(bob, bob, []int{staff}, Mkdir("shared/bobs"), WriteFile("shared/bobs/file", "")), Stat("shared/bobs"), Stat("shared/bobs/file"),
			Mkdir("shared/dir/sub"), Stat("shared/dir/sub"), MakeSymlink("x", "shared/link"), Stat("shared/link"),
			As(alice, dogs, nil, OpenClose("shared/notmember", unix.O_CREAT|unix.O_WRONLY, 0o2775)), Stat("shared/notmember"), OpenClose("shared/byroot", unix.O_CREAT|unix.O_WRONLY, 0o2775), Stat("shared/byroot"),
		}},
		{name: "set-id bits go when another writes", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(bob, bob, nil, Append("open/suid", "!")), Stat("open/suid"), As(alice, alice, nil, Append("open/sgid", "!")), Stat("open/sgid"),
		}},
		{name: "set-id bits go when another truncates", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(bob, bob, nil, Truncate("open/suid", 1)), Stat("open/suid"), As(alice, alice, nil, OpenClose("open/sgid", unix.O_WRONLY|unix.O_TRUNC, 0)), Stat("open/sgid"),
		}},
		{name: "set-id bits stay when root writes", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{Append("open/suid", "!"), Stat("open/suid"), Truncate("open/sgid", 1), Stat("open/sgid")}},
		{name: "set-id bits go with the owner", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			Chown("open/suid", bob, -1), Stat("open/suid"), Chown("open/sgid", -1, dogs), Stat("open/sgid"), Chown("open/all", alice, dogs), Chmod("open/all", 0o6755), Stat("open/all"), Chown("open/all", -1, -1), Stat("open/all"),
		}},
		{name: "chmod by the owner", needs: []Power{Users}, layers: ownedLayer(), ops: []Op{
			As(alice, alice, nil, Chmod("open/alices", 0o2755)), Stat("open/alices"), As(alice, staff, nil, Chmod("open/alices", 0o2755)), Stat("open/alices"), As(alice, alice, nil, Chmod("closed", 0o755)), As(bob, bob, nil, Read("closed/file")),
		}},
		{name: "umask", layers: oneLayer(), ops: []Op{
			WithUmask(0o077, OpenClose("n1", unix.O_CREAT|unix.O_WRONLY, 0o666), on("d1", "mkdir 0777", func(full string) error { return unix.Mkdir(full, 0o777) })), Stat("n1"), Stat("d1"),
			WithUmask(0, OpenClose("n2", unix.O_CREAT|unix.O_WRONLY, 0o666), on("d2", "mkdir 0777", func(full string) error { return unix.Mkdir(full, 0o777) })), Stat("n2"), Stat("d2"),
			Unlink("f"), WithUmask(0o027, OpenClose("f", unix.O_CREAT|unix.O_WRONLY, 0o666)), Stat("f"),
		}},
		{name: "capabilities go with a write", needs: []Power{TrustedXattrs}, layers: [][]Entry{{
			File("write", 0o755, "x", Xattr(capability, capNetRaw)), File("chown", 0o755, "x", Xattr(capability, capNetRaw)), File("chmod", 0o755, "x", Xattr(capability, capNetRaw)),
		}}, ops: []Op{
			Append("write", "!"), Getxattr("write", capability), Chown("chown", 1, 1), Getxattr("chown", capability), Chmod("chmod", 0o700), Getxattr("chmod", capability), Setxattr("write", capability, capNetRaw, 0), Getxattr("write", capability),
		}},
	}}
}

// capability is the attribute of file capabilities; capNetRaw is CAP_NET_RAW,
// permitted and effective (struct vfs_cap_data of linux/capability.h, revision 2).
const (
	capability = "security.capability"
	capNetRaw  = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// Names of the attributes that hold POSIX ACLs.
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// aclEntry is one entry of a POSIX ACL (struct posix_acl_xattr_entry of
// linux/posix_acl_xattr.h).
type aclEntry struct {
	Tag, Perm uint16
	ID        uint32
}

// Tags of ACL entries (linux/posix_acl.h).
const (
	userObj, user, groupObj, group, mask, other = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
	noID                                        = ^uint32(0)
)

// acl encodes an ACL as the attribute's value, version 2.
func acl(entries ...aclEntry) string {
	var b bytes.Buffer
	b.Write([]byte{2, 0, 0, 0})
	for _, e := range entries {
		b.Write(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, e.Tag), e.Perm), e.ID))
	}
	return b.String()
}

// bobReads lets bob read and write what others may not touch.
func bobReads() string {
	return acl(aclEntry{userObj, 7, noID}, aclEntry{user, 6, bob}, aclEntry{groupObj, 5, noID}, aclEntry{mask, 7, noID}, aclEntry{other, 0, noID})
}

func aclLayer() [][]Entry {
	uid, gid := alice, staff
	if os.Geteuid() != 0 {
		uid, gid = -1, -1 // an ordinary user gives no files away
	}
	return [][]Entry{{
		File("file", 0o640, "for bob", Owner(uid, gid), Xattr(accessACL, bobReads())),
		Dir("inherit", 0o755, Xattr(defaultACL, bobReads())), Dir("inherit/below", 0o755),
		File("plain", 0o640, "x", Owner(uid, gid)),
	}}
}

func aclCases() theme {
	return theme{"ACLs", []testCase{
		{name: "are obeyed", needs: []Power{Users}, layers: aclLayer(), ops: []Op{
			As(bob, bob, nil, Read("file")), As(bob, bob, nil, Append("file", "!")), As(bob+1, bob+1, nil, Read("file")), As(bob, bob, nil, Read("plain")), As(bob, bob, nil, Append("file", "?")),
		}},
		{name: "are kept over copy-up", needs: []Power{Users}, layers: aclLayer(), ops: []Op{Append("file", "!"), Getxattr("file", accessACL), Chmod("inherit", 0o700), Getxattr("inherit", defaultACL), Rename("file", "inherit/file"), Getxattr("inherit/file", accessACL)}},
		{name: "can be set on a lower file", needs: []Power{LowerACLs}, layers: aclLayer(), ops: []Op{
			Setxattr("plain", accessACL, bobReads(), 0), Stat("plain"), Removexattr("file", accessACL), Stat("file"), Setxattr("inherit/below", defaultACL, bobReads(), 0), Removexattr("inherit", defaultACL),
		}},
		{name: "can be set and removed", layers: aclLayer(), ops: []Op{
			Append("plain", "!"), Append("file", "!"), Chmod("inherit", 0o755), Chmod("inherit/below", 0o755),
			Setxattr("plain", accessACL, bobReads(), 0), Stat("plain"), Removexattr("file", accessACL), Stat("file"), Setxattr("inherit/below", defaultACL, bobReads(), 0), Removexattr("inherit", defaultACL),
			Setxattr("plain", defaultACL, bobReads(), 0), Setxattr("plain", accessACL, "nonsense", 0),
		}},
		{name: "chmod changes the mask", layers: aclLayer(), ops: []Op{Chmod("file", 0o604), Getxattr("file", accessACL), Stat("file")}},
		{name: "default ACL is inherited", layers: aclLayer(), ops: []Op{
			WithUmask(0o077, OpenClose("inherit/new", unix.O_CREAT|unix.O_WRONLY, 0o666)), Stat("inherit/new"), Getxattr("inherit/new", accessACL),
			WithUmask(0o022, Mkdir("inherit/dir")), Getxattr("inherit/dir", defaultACL), Stat("inherit/dir"), OpenClose("inherit/dir/deep", unix.O_CREAT|unix.O_WRONLY, 0o644), Getxattr("inherit/dir/deep", accessACL),
			MakeSymlink("x", "inherit/link"), Mknod("inherit/fifo", unix.S_IFIFO|0o666, 0, 0), Getxattr("inherit/fifo", accessACL),
		}},
		{name: "default ACL is inherited over a whiteout", layers: append(aclLayer(), []Entry{Dir("inherit", 0o755, Xattr(defaultACL, bobReads())), File("inherit/old", 0o644, "")}), ops: []Op{
			Unlink("inherit/old"), OpenClose("inherit/old", unix.O_CREAT|unix.O_WRONLY, 0o666), Getxattr("inherit/old", accessACL), Stat("inherit/old"), RemoveAll("inherit/below"), Mkdir("inherit/below"), Getxattr("inherit/below", defaultACL), Stat("inherit/below"),
		}},
	}}
}
