package snapshot_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/testimage"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/tarstream"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// env is a store with its layer graph, and mounts that are taken down with the test.
type env struct {
	t     *testing.T
	ctx   context.Context
	disk  *disk.Store
	snaps *snapshot.Store
	sess  *snapshot.Session
	n     int
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{t: t, ctx: t.Context()}
	var err error
	e.disk, err = disk.Open(e.ctx, filepath.Join(t.TempDir(), "store"), disk.Options{})
	e.ok(err)
	t.Cleanup(func() { e.ok(e.disk.Close()) })
	e.snaps, err = snapshot.New(e.disk, snapshot.Options{})
	e.ok(err)
	e.sess, err = e.snaps.Begin(e.ctx)
	e.ok(err)
	t.Cleanup(func() { e.ok(e.sess.Close()) })
	return e
}

func (e *env) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// layer imports a tar made of headers; a regular file's content is given by name.
func (e *env) layer(entries ...entry) snapshot.DiffID {
	e.t.Helper()
	l, _, err := e.snaps.ImportLayer(e.ctx, e.sess, bytes.NewReader(tarOf(e.t, entries)), snapshot.LayerExpect{BlobSize: -1})
	e.ok(err)
	return l.DiffID
}

type entry struct {
	name string
	data string // of a file
	link string // target of a symbolic link, or with hard of a hard link
	hard bool
	mode int64
	xa   map[string]string
}

func tarOf(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, en := range entries {
		h := &tar.Header{Name: en.name, Mode: 0o644, ModTime: time.Unix(1_600_000_000, 0), Format: tar.FormatPAX}
		switch {
		case strings.HasSuffix(en.name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case en.hard:
			h.Typeflag, h.Linkname = tar.TypeLink, en.link
		case en.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, en.link
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(en.data))
		}
		if en.mode != 0 {
			h.Mode = en.mode
		}
		for k, v := range en.xa {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, en.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var big = strings.Repeat("large enough to be an object\n", 1000)

// baseEntries is a layer with everything that changes are made to.
func baseEntries() []entry {
	out := []entry{
		{name: "./"},
		{name: "etc/"}, {name: "etc/conf", data: "small\n"}, {name: "etc/big", data: big + "etc"},
		{name: "bin/"}, {name: "bin/tool", data: big + "tool", mode: 0o755},
		{name: "bin/alias", link: "bin/tool", hard: true}, {name: "bin/third", link: "bin/tool", hard: true},
		{name: "lib", link: "usr/lib"},
		{name: "usr/"}, {name: "usr/lib/"}, {name: "usr/lib/so", data: big},
		{name: "usr/lib/xa", data: big + "xa", xa: map[string]string{"user.note": "kept", "trusted.overlay.foreign": "nested"}},
		{name: "tree/"}, {name: "tree/a/"}, {name: "tree/a/deep/"}, {name: "tree/empty/"},
		{name: "tree/a/deep/file", data: big + "deep"}, {name: "tree/a/small", data: "x"}, {name: "tree/b", data: "y"},
	}
	for i := range 40 {
		out = append(out, entry{name: fmt.Sprintf("tree/a/n%02d", i), data: fmt.Sprint("number ", i)})
	}
	return out
}

// mount mounts a snapshot on a new directory and returns that.
func (e *env) mount(key snapshot.Key, single bool) string {
	e.t.Helper()
	layers, err := e.snaps.Mounts(e.ctx, key, snapshot.MountOptions{Single: single})
	e.ok(err)
	d := overlay.New(overlay.Options{})
	m, err := d.Open(e.ctx, layers, unionfs.Options{Source: e.snaps.Source(key)})
	e.ok(err)
	e.n++
	dir := filepath.Join(e.t.TempDir(), fmt.Sprintf("mnt%d", e.n))
	e.ok(os.Mkdir(dir, 0o755))
	e.ok(m.Attach(e.ctx, dir))
	e.ok(m.Close())
	e.t.Cleanup(func() { e.unmount(dir) })
	return dir
}

func (e *env) unmount(dir string) {
	e.t.Helper()
	if err := unix.Unmount(dir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		e.t.Errorf("unmount %s: %v", dir, err)
	}
}

// sh runs a script in dir.
func (e *env) sh(dir, script string) {
	e.t.Helper()
	testenv.Output(e.t, "sh", "-euc", "cd "+dir+"\n"+script)
}

var scripts = map[string]string{
	"files":            "echo new >new; echo more >>etc/conf; rm tree/b; mkdir d; echo x >d/f; ln -s nowhere d/l; mkfifo d/p; mknod d/c c 1 3",
	"metadata":         "chmod 600 etc/big; chown 12:34 bin/tool; touch -d @1234567890.5 usr/lib/so; setfattr -n user.x -v y etc/big",
	"rename directory": "mv tree moved",
	"rename twice":     "mv tree one; mv one etc/two",
	"rename and change": `mv tree moved; echo x >moved/a/new; rm moved/b; echo more >>moved/a/deep/file; rm -r moved/empty;
		mkdir tree; echo fresh >tree/only`,
	"rename nested":       "mv tree/a/deep deeper; mv tree other; mv other/a third; echo x >third/added; mv deeper third/deep2",
	"rename over":         "mkdir etc/x; mv etc/x tree/x; mv tree/empty tree/a/empty; rmdir tree/a/empty; mv tree/a/deep tree/empty",
	"rename files":        "chmod 700 etc/big; mv etc/big moved-big; mv bin/tool etc/tool; mv etc/conf etc/conf2; chmod 111 etc/tool",
	"opaque":              "rm -r tree; mkdir tree; echo x >tree/new; mkdir tree/a; echo y >tree/a/small",
	"types change":        "rm -r tree; echo file >tree; rm etc/big; mkdir etc/big; echo in >etc/big/in; rm lib; mkdir lib; echo l >lib/so",
	"hard links":          "ln etc/big etc/big2; ln etc/conf tree/a/conf; echo a >n1; ln n1 n2; ln n1 tree/n3; echo changed >>bin/alias",
	"replace and restore": "mv etc/conf etc/tmp; mv etc/tmp etc/conf; chmod 600 etc/conf; chmod 644 etc/conf; mv tree t; mv t tree",
	"attributes":          "setfattr -n user.note -v changed usr/lib/xa; setfattr -n trusted.other -v v usr/lib; setfattr -x user.note usr/lib/xa",
	"sparse":              "truncate -s 32M hole; printf end >>hole; cp etc/big etc/big.copy; dd if=/dev/zero of=zeros bs=64k count=80 status=none",
	"root":                "chmod 750 .; chown 5:6 .; touch -d @1000000000 .",
	"everything removed":  "rm -rf bin etc lib usr tree",
}

// compareOptions leave out the link counts of files that are hard links below and were
// partly changed: overlayfs goes on to show the count of the lower file.
var compareOptions = testimage.CompareOptions{Ignore: func(path, field string) bool {
	return field == "nlink" && (strings.HasSuffix(path, "tool") || strings.HasSuffix(path, "alias") || strings.HasSuffix(path, "third"))
}}

// TestCommitEqualsMount makes changes through a mount, commits, and compares three
// views of the result with what the mount showed: the stack with a delta, the stack as
// one tree, and the layers' tars as GNU tar extracts them.
func TestCommitEqualsMount(t *testing.T) {
	testenv.Root(t)
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			base := e.layer(baseEntries()...)
			_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
			e.ok(err)
			work := e.mount("work", false)
			e.sh(work, script)
			e.checkCommit("work", work)
		})
	}
}

func (e *env) checkCommit(key snapshot.Key, live string) {
	e.t.Helper()
	t := e.t
	layer, stack, err := e.snaps.Commit(e.ctx, e.sess, key)
	e.ok(err)
	if stack[len(stack)-1] != layer.DiffID {
		t.Fatalf("stack %v does not end in the new layer %s", stack, layer.DiffID)
	}
	_, err = e.snaps.Stack(e.ctx, stack, snapshot.StackOptions{AnyDepth: true})
	e.ok(err)
	for _, single := range []bool{false, true} {
		k := snapshot.Key(fmt.Sprintf("view-%v", single))
		_, err = e.snaps.View(e.ctx, k, snapshot.PrepareOptions{Layers: stack})
		e.ok(err)
		dir := e.mount(k, single)
		testimage.CompareTrees(t, dir, live, compareOptions)
		e.unmount(dir)
	}
	var tars []string
	for i, d := range stack {
		name := filepath.Join(t.TempDir(), fmt.Sprintf("layer%d.tar", i))
		f, err := os.Create(name)
		e.ok(err)
		e.ok(e.snaps.WriteTar(e.ctx, d, f))
		e.ok(f.Close())
		tars = append(tars, name)
	}
	testimage.CompareTrees(t, testimage.Extract(t, tars...), live, compareOptions)

	// The changes of the snapshot are those between the stacks.
	changes, err := e.snaps.Changes(e.ctx, key)
	e.ok(err)
	between, err := e.snaps.DiffStacks(e.ctx, stack[:len(stack)-1], stack)
	e.ok(err)
	var a, b []string
	for _, c := range changes {
		a = append(a, c.Kind.Letter()+" "+c.Path.Abs())
	}
	for _, c := range between {
		b = append(b, c.Kind.Letter()+" "+c.Path.Abs())
	}
	if strings.Join(a, "\n") != strings.Join(b, "\n") {
		t.Errorf("changes of the snapshot:\n%s\nbetween the stacks:\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}

	// Reading without a mount shows the same: extract the export.
	r, err := e.snaps.OpenSnapshot(e.ctx, key)
	e.ok(err)
	name := filepath.Join(t.TempDir(), "export.tar")
	f, err := os.Create(name)
	e.ok(err)
	e.ok(r.WriteTar(e.ctx, f, tarstream.WriteOptions{}))
	e.ok(f.Close())
	e.ok(r.Close())
	testimage.CompareTrees(t, testimage.Extract(t, name), live, compareOptions)
	report, err := e.snaps.Check(e.ctx, snapshot.CheckOptions{})
	e.ok(err)
	for _, fault := range report.Faults {
		t.Errorf("fsck: %+v", fault)
	}
}

// TestForkChain changes a snapshot, forks it, changes both, and commits a snapshot that
// stands on several sealed ones.
func TestForkChain(t *testing.T) {
	testenv.Root(t)
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			base := e.layer(baseEntries()...)
			_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
			e.ok(err)
			dir := e.mount("work", false)
			e.sh(dir, script)
			e.unmount(dir)
			_, err = e.snaps.Fork(e.ctx, "work", "fork")
			e.ok(err)

			dir = e.mount("work", false)
			e.sh(dir, "rm -rf new etc/two d; mkdir -p tree2/q; echo second >second; [ ! -d moved ] || { chmod 700 moved; echo z >moved/z; }; [ ! -d tree/a ] || mv tree/a tree/a2; [ ! -e third ] || rm -r third")
			e.unmount(dir)
			_, err = e.snaps.Fork(e.ctx, "work", "fork2")
			e.ok(err)
			dir = e.mount("work", false)
			e.sh(dir, "echo third >>second; mkdir -p new; chmod 755 .; [ ! -d tree/a2 ] || mv tree/a2 back; [ ! -d moved ] || mv moved moved2")
			e.checkCommit("work", dir)

			other := e.mount("fork", false)
			want := newEnv(t)
			b2 := want.layer(baseEntries()...)
			_, err = want.snaps.Prepare(want.ctx, "plain", snapshot.PrepareOptions{Layers: []snapshot.DiffID{b2}})
			want.ok(err)
			plain := want.mount("plain", false)
			want.sh(plain, script)
			o := compareOptions
			o.Ignore = func(path, field string) bool { // made at another time
				return field == "mtime" || compareOptions.Ignore(path, field)
			}
			testimage.CompareTrees(t, other, plain, o)
		})
	}
}

func TestResetAndRemove(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	base := e.layer(baseEntries()...)
	_, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
	e.ok(err)
	dir := e.mount("work", false)
	e.sh(dir, scripts["rename and change"])
	for what, err := range map[string]error{
		"reset":  e.snaps.Reset(e.ctx, "work"),
		"remove": e.snaps.Remove(e.ctx, "work"),
	} {
		if !errors.Is(err, snapshot.ErrInUse) {
			t.Errorf("%s of a mounted snapshot: %v, want ErrInUse", what, err)
		}
	}
	e.unmount(dir)
	e.ok(e.snaps.Reset(e.ctx, "work"))
	if ch, err := e.snaps.Changes(e.ctx, "work"); err != nil || len(ch) != 0 {
		t.Errorf("changes after reset: %v, %v", ch, err)
	}
	if _, err := e.snaps.Prepare(e.ctx, "work", snapshot.PrepareOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("prepare of a name that is taken: %v, want ErrExist", err)
	}
	e.ok(e.snaps.Remove(e.ctx, "work"))
	if _, err := e.snaps.Stat(e.ctx, "work"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat after remove: %v, want ErrNotExist", err)
	}
}

func TestSealedGoesWithItsLastChild(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	base := e.layer(baseEntries()...)
	_, err := e.snaps.Prepare(e.ctx, "a", snapshot.PrepareOptions{Layers: []snapshot.DiffID{base}})
	e.ok(err)
	dir := e.mount("a", false)
	e.sh(dir, "echo x >x")
	e.unmount(dir)
	_, err = e.snaps.Fork(e.ctx, "a", "b")
	e.ok(err)
	var sealed snapshot.Key
	e.ok(e.snaps.Walk(e.ctx, func(r *snapshot.Record) error {
		if r.Kind == snapshot.Sealed {
			sealed = r.Key
		}
		return nil
	}))
	if err := e.snaps.Remove(e.ctx, sealed); !errors.Is(err, snapshot.ErrHasChildren) {
		t.Errorf("remove of a sealed snapshot with children: %v, want ErrHasChildren", err)
	}
	e.ok(e.snaps.Remove(e.ctx, "a"))
	if _, err := e.snaps.Stat(e.ctx, sealed); err != nil {
		t.Errorf("sealed snapshot that b stands on: %v", err)
	}
	e.ok(e.snaps.Remove(e.ctx, "b"))
	if _, err := e.snaps.Stat(e.ctx, sealed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sealed snapshot without children: %v, want ErrNotExist", err)
	}
}

func TestCollectKeepsWhatIsReachable(t *testing.T) {
	testenv.Root(t)
	e := newEnv(t)
	kept := e.layer(baseEntries()...)
	gone := e.layer(entry{name: "only/here", data: big + "gone"})
	e.ok(e.sess.Close())
	_, err := e.snaps.View(e.ctx, "view", snapshot.PrepareOptions{Layers: []snapshot.DiffID{kept}})
	e.ok(err)

	dry, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{DryRun: true})
	e.ok(err)
	if dry.Layers.Count != 1 || dry.Objects.Count != 1 {
		t.Errorf("dry run: %d layers and %d objects, want one of each", dry.Layers.Count, dry.Objects.Count)
	}
	if _, err := e.snaps.StatLayer(e.ctx, gone); err != nil {
		t.Errorf("layer after a dry run: %v", err)
	}
	r, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
	if r.Layers != dry.Layers || r.Objects != dry.Objects {
		t.Errorf("collected %+v, the dry run said %+v", r, dry)
	}
	if _, err := e.snaps.StatLayer(e.ctx, gone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unreachable layer: %v, want ErrNotExist", err)
	}
	dir := e.mount("view", false)
	got, err := os.ReadFile(filepath.Join(dir, "etc/big"))
	if err != nil || string(got) != big+"etc" {
		t.Errorf("file of a kept layer: %d bytes, %v", len(got), err)
	}
	report, err := e.snaps.Check(e.ctx, snapshot.CheckOptions{})
	e.ok(err)
	if len(report.Faults) > 0 {
		t.Errorf("fsck after collection: %+v", report.Faults)
	}
}

// TestCollectSince takes back what was stored since a time, and leaves older garbage and
// what others have quarantined.
func TestCollectSince(t *testing.T) {
	e := newEnv(t)
	older := e.layer(entry{name: "older", data: big + "older"})
	e.ok(e.sess.Close())
	// Files bear the time of a clock that is behind by up to a tick.
	time.Sleep(20 * time.Millisecond)
	since := time.Now()
	time.Sleep(20 * time.Millisecond)
	sess, err := e.snaps.Begin(e.ctx)
	e.ok(err)
	e.sess = sess
	before, err := e.disk.Usage(e.ctx)
	e.ok(err)
	newer := e.layer(entry{name: "newer", data: big + "newer"}, entry{name: "older", data: big + "older"})
	e.ok(e.sess.Close())
	r, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{Since: since})
	e.ok(err)
	if r.Layers.Count != 1 || r.Objects.Count != 1 || r.Deleted.Count != 2 {
		t.Errorf("collected %+v, want one layer and one object, deleted", r)
	}
	if _, err := e.snaps.StatLayer(e.ctx, newer); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("layer stored since: %v, want ErrNotExist", err)
	}
	if _, err := e.snaps.StatLayer(e.ctx, older); err != nil {
		t.Errorf("layer stored before: %v", err)
	}
	if after, err := e.disk.Usage(e.ctx); err != nil || after != before {
		t.Errorf("usage %+v, %v, want %+v as before", after, err, before)
	}
}

func TestSessionKeepsLayers(t *testing.T) {
	e := newEnv(t)
	d := e.layer(baseEntries()...)

	_, err := e.snaps.Collect(e.ctx, noRoots, snapshot.CollectOptions{})
	e.ok(err)
	if _, err := e.snaps.StatLayer(e.ctx, d); err != nil {
		t.Fatalf("layer of a live session: %v", err)
	}
	report, err := e.snaps.Check(e.ctx, snapshot.CheckOptions{})
	e.ok(err)
	if len(report.Faults) > 0 {
		t.Errorf("fsck: %+v", report.Faults)
	}
}

func TestCheckNamesDamage(t *testing.T) {
	e := newEnv(t)
	d := e.layer(baseEntries()...)
	_, err := e.snaps.Stack(e.ctx, []snapshot.DiffID{d}, snapshot.StackOptions{})
	e.ok(err)
	var object string
	e.ok(filepath.WalkDir(e.disk.ObjectsDir(), func(p string, de fs.DirEntry, err error) error {
		if err == nil && de.Type().IsRegular() && object == "" {
			object = p
		}
		return err
	}))
	data, err := os.ReadFile(object)
	e.ok(err)
	data[len(data)/2] ^= 1
	e.ok(os.Chmod(object, 0o644))
	e.ok(os.WriteFile(object, data, 0o444))
	images := func(_ context.Context, need func(snapshot.Need)) error {
		need(snapshot.Need{Image: "img:1", Layer: d})
		return nil
	}
	r, err := e.snaps.Check(e.ctx, snapshot.CheckOptions{Images: images})
	e.ok(err)
	if len(r.Faults) != 1 || r.Faults[0].Kind != "object" {
		t.Fatalf("faults: %+v, want one object", r.Faults)
	}
	uses := strings.Join(r.Faults[0].Uses, "\n")
	if !strings.Contains(uses, "in layer "+d.String()) || !strings.Contains(uses, "image img:1") {
		t.Errorf("uses of the damaged object:\n%s", uses)
	}
}

func TestMountDepthIsBounded(t *testing.T) {
	e := newEnv(t)
	stack := []snapshot.DiffID{e.layer(baseEntries()...)}
	_, err := e.snaps.Stack(e.ctx, stack, snapshot.StackOptions{})
	e.ok(err)
	for i := range 12 {
		stack = append(stack, e.layer(entry{name: fmt.Sprintf("added/%d", i), data: fmt.Sprint(i)}))
		st, err := e.snaps.Stack(e.ctx, stack, snapshot.StackOptions{AnyDepth: true})
		e.ok(err)
		if len(st.Trees) != i+2 {
			t.Fatalf("%d layers read through %d trees, want a delta for each commit", len(stack), len(st.Trees))
		}
	}
	st, err := e.snaps.Stack(e.ctx, stack, snapshot.StackOptions{})
	e.ok(err)
	if len(st.Trees) > 5 {
		t.Errorf("%d trees to mount, want at most 5", len(st.Trees))
	}
}

// TestImportedLayerRefusals imports what does not match what was expected.
func TestImportedLayerRefusals(t *testing.T) {
	e := newEnv(t)
	data := tarOf(t, baseEntries())
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(data)
	e.ok(err)
	e.ok(z.Close())
	zipped := packed.Bytes()
	other := snapshot.DiffID("sha256:" + strings.Repeat("0", 64))
	for name, c := range map[string]struct {
		data []byte
		e    snapshot.LayerExpect
	}{
		"diff id":   {data, snapshot.LayerExpect{DiffID: other, BlobSize: -1}},
		"blob":      {data, snapshot.LayerExpect{Blob: "sha256:" + "1111111111111111111111111111111111111111111111111111111111111111", BlobSize: -1}},
		"size":      {data, snapshot.LayerExpect{BlobSize: int64(len(data)) - 1}},
		"truncated": {data[:len(data)/2], snapshot.LayerExpect{BlobSize: -1}},

		"more expected":        {data, snapshot.LayerExpect{BlobSize: int64(len(data)) + 1}},
		"sha512":               {data, snapshot.LayerExpect{Blob: digest.SHA512.FromString("another"), BlobSize: -1}},
		"no digest":            {data, snapshot.LayerExpect{Blob: "sha256:", DiffID: snapshot.DiffID(digest.FromBytes(data)), BlobSize: -1}},
		"gzip blob":            {zipped, snapshot.LayerExpect{Blob: digest.Digest(other), BlobSize: -1}},
		"gzip size":            {zipped, snapshot.LayerExpect{BlobSize: int64(len(zipped)) - 1}},
		"gzip, more expected":  {zipped, snapshot.LayerExpect{BlobSize: int64(len(zipped)) + 1}},
		"gzip with an add-on":  {append(bytes.Clone(zipped), 0), snapshot.LayerExpect{Blob: digest.FromBytes(zipped), BlobSize: int64(len(zipped))}},
		"plain with an add-on": {append(bytes.Clone(data), 0), snapshot.LayerExpect{Blob: digest.FromBytes(data), BlobSize: int64(len(data))}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := e.snaps.ImportLayer(e.ctx, e.sess, bytes.NewReader(c.data), c.e)
			if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("import: %v, want an error of class ErrInvalid", err)
			}
		})
	}
	u, err := e.disk.Usage(e.ctx)
	e.ok(err)
	if u.Layers.Count != 0 || u.Objects.Count != 0 {
		t.Errorf("after refusals the store has %d layers and %d objects, want none", u.Layers.Count, u.Objects.Count)
	}
	for _, blob := range []digest.Digest{digest.FromBytes(data), digest.SHA512.FromBytes(data)} {
		if _, _, err := e.snaps.ImportLayer(e.ctx, e.sess, bytes.NewReader(data), snapshot.LayerExpect{Blob: blob, BlobSize: int64(len(data))}); err != nil {
			t.Errorf("import of what was expected: %v", err)
		}
	}
}

func TestStackRefusesDanglingLinks(t *testing.T) {
	e := newEnv(t)
	d := e.layer(entry{name: "a", link: "b", hard: true}, entry{name: "b", link: "a", hard: true})
	_, err := e.snaps.Stack(e.ctx, []snapshot.DiffID{d}, snapshot.StackOptions{})
	if err == nil || !strings.Contains(err.Error(), d.String()) {
		t.Errorf("stack with cyclic hard links: %v, want an error that names the layer", err)
	}
}
