package unionfstest

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs"
)

func xattrCases() theme {
	return theme{"attributes", []testCase{
		{name: "user attributes", layers: xattrLayer(), ops: []Op{
			Getxattr("f", "user.one"), Getxattr("f", "user.none"), Setxattr("f", "user.two", "2", 0), Setxattr("f", "user.one", "changed", unix.XATTR_REPLACE), Setxattr("f", "user.one", "x", unix.XATTR_CREATE),
			Setxattr("f", "user.none", "x", unix.XATTR_REPLACE), Removexattr("f", "user.none"), Removexattr("f", "user.empty"), Setxattr("d", "user.d", "", 0), Setxattr("f", "user.binary", "\x00\xff\n", 0),
		}},
		{name: "are kept over copy-up", needs: []Power{TrustedXattrs}, layers: xattrLayer(), ops: []Op{
			Append("f", "!"), Chmod("d", 0o700), Utimes("link", epoch()), Chmod("tool", 0o700), Getxattr("tool", capability), Getxattr("f", "trusted.one"),
		}},
		{name: "large value", layers: xattrLayer(), ops: []Op{Setxattr("f", "user.large", strings.Repeat("v", 3000), 0), Getxattr("f", "user.large"), Append("f", "!"), Removexattr("f", "user.large")}},
		{name: "many", layers: xattrLayer(), ops: manyXattrs(50)},
		{name: "of a symlink", needs: []Power{TrustedXattrs}, layers: xattrLayer(), ops: []Op{
			Setxattr("link", "trusted.onlink", "here", 0), Getxattr("link", "trusted.onlink"), Getxattr("f", "trusted.onlink"), Setxattr("link", "user.not", "allowed", 0), Removexattr("link", "trusted.onlink"),
			Setxattr("dangling", "trusted.x", "y", 0), Getxattr("dangling", "trusted.x"),
		}},
		{name: "of special files", needs: []Power{TrustedXattrs, Devices}, layers: [][]Entry{{Node("fifo", unix.S_IFIFO|0o600, 0, 0), Node("null", unix.S_IFCHR|0o666, 1, 3)}}, ops: []Op{
			Setxattr("fifo", "trusted.x", "y", 0), Getxattr("fifo", "trusted.x"), Setxattr("null", "user.x", "y", 0), Setxattr("null", "trusted.x", "y", 0),
		}},
		{name: "on errors", layers: xattrLayer(), ops: []Op{
			Setxattr("nothing", "user.x", "", 0), Setxattr("f", "unknown.x", "", 0), Setxattr("f", "user.", "", 0), Setxattr("f", "user."+strings.Repeat("n", 251), "", 0), Getxattr("f", "trusted.none"), Removexattr("d", "user.none"),
		}},
		{name: "of an upper file", layers: xattrLayer(), ops: []Op{WriteFile("n", ""), Setxattr("n", "user.x", "1", 0), Rename("n", "f"), Getxattr("f", "user.x"), Getxattr("f", "user.one"), Unlink("f"), WriteFile("f", ""), Getxattr("f", "user.x")}},
		{name: "the format's own are the user's too", layers: xattrLayer(), apart: true, check: func(t *testing.T, u *Union) {
			// What a nested union sets must come back, and must mean nothing to this one.
			own := func(name string) string { return u.h.Namespace.Attr(name) }
			if u.h.Namespace == unionfs.Trusted {
				if why, lacking := u.h.lacks([]Power{TrustedXattrs}); lacking {
					t.Skip(why)
				}
			}
			u.Apply(t,
				Setxattr("d", own(unionfs.Opaque), "y", 0), Getxattr("d", own(unionfs.Opaque)), List("d"), Setxattr("f", own(unionfs.Metacopy), "", 0), Setxattr("f", own(unionfs.Redirect), "/nowhere", 0), Read("f"),
				Mkdir("n"), Setxattr("n", own(unionfs.Whiteout), "", 0), Setxattr("d", own("overlay.opaque"), "doubled", 0), Getxattr("d", own("overlay.opaque")), Setxattr("n", own("anything"), "x", 0), Removexattr("n", own("anything")), Getxattr("n", own("none")),
			)
			u.Verify(t)
		}},
		{name: "the format's own in a layer", layers: [][]Entry{{
			Dir("d", 0o755), File("d/in", 0o644, ""), File("f", 0o644, "content"),
		}}, apart: true, check: func(t *testing.T, u *Union) {
			// Attributes that say how layers merge do not show through the mount.
			u.Apply(t, Unlink("f"), RemoveAll("d"), Mkdir("d"), Append("d/x", "x"))
			for path, st := range capture(t, u.Root) {
				for name := range st.xattrs {
					if strings.HasPrefix(name, string(u.h.Namespace)) {
						t.Errorf("%q shows the attribute %s", path, name)
					}
				}
			}
			for _, name := range []string{unionfs.Opaque, unionfs.Origin} {
				if _, err := Getxattr("d", u.h.Namespace.Attr(name)).Do(u.Root); errno(err) != unix.ENODATA {
					t.Errorf("reading %s through the mount ended with %v, want ENODATA", name, err)
				}
			}
		}},
	}}
}

// xattrLayer has the attributes that who runs the tests may set.
func xattrLayer() [][]Entry {
	return [][]Entry{{
		File("f", 0o644, "content", Xattr("user.one", "1"), Xattr("user.empty", ""), byRoot(Xattr("trusted.one", "t"))),
		Dir("d", 0o755, Xattr("user.dir", "d"), byRoot(Xattr("trusted.dir", "td"))), File("d/in", 0o644, "in"),
		Symlink("link", "f", byRoot(Xattr("trusted.link", "l"))), Symlink("dangling", "nowhere"), File("tool", 0o755, "x", byRoot(Xattr(capability, capNetRaw))),
	}}
}

// byRoot leaves an attribute out where only root may set it.
func byRoot(a Attr) Attr {
	if os.Geteuid() == 0 {
		return a
	}
	return func(layerWriter, string) error { return nil }
}

func manyXattrs(n int) []Op {
	var ops []Op
	for i := range n {
		ops = append(ops, Setxattr("d/in", "user."+strings.Repeat("n", i+1), "value", 0))
	}
	return append(ops, Append("d/in", "!"), Removexattr("d/in", "user.nnn"))
}
