package snapshot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tree"
)

// A mount point is no change only as long as it is as it was made.
func TestMountPointsAreNoChanges(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	base := e.layer(baseEntries()...)
	_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
	e.ok(err)
	dir := e.mount("work", false)
	e.sh(dir, `umask 022
		mkdir -p at/own at/kept at/open at/mode
		: >at/file; : >at/later; : >at/grown; : >at/owned; : >at/marked; : >at/linked; ln -s x at/link
		: >at/kept/user; chmod 0700 at/mode; chown 1 at/owned; echo x >>at/grown; setfattr -n user.x -v y at/marked`)
	var made []snapshot.MountPoint
	for _, name := range []string{"at", "at/own", "at/kept", "at/open", "at/mode", "at/file", "at/later", "at/grown", "at/owned", "at/marked", "at/link", "no/such", "at/file/below"} {
		m := snapshot.MountPoint{Path: tree.Path(name)}
		if st, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			m.Dir, m.MTime = st.IsDir(), tree.Time{Sec: st.ModTime().Unix(), Nsec: uint32(st.ModTime().Nanosecond())}
		}
		if name == "at/later" {
			m.MTime.Sec--
		}
		made = append(made, m)
	}
	changes, err := e.snaps.Changes(e.ctx, "work", made...)
	e.ok(err)
	var got []string
	for _, c := range changes {
		got = append(got, c.Kind.Letter()+" "+c.Path.Abs())
	}
	want := "A /at A /at/grown A /at/kept A /at/kept/user A /at/later A /at/link A /at/linked A /at/marked A /at/mode A /at/owned"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("changes:\n%s\nwant\n%s", s, want)
	}
	_, stack, err := e.snaps.Commit(e.ctx, e.sess, "work", made...)
	e.ok(err)
	between, err := e.snaps.DiffStacks(e.ctx, stack[:1], stack)
	e.ok(err)
	if len(between) != len(changes) {
		t.Errorf("%d changes are in the layer, want %d", len(between), len(changes))
	}
}
