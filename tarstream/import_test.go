package tarstream

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/tree"
)

// layerOf imports members made by header.append and dumps the layer.
func layerOf(t *testing.T, members ...header) string {
	t.Helper()
	var data []byte
	for _, h := range members {
		data = h.append(data)
	}
	built, err := Import(context.Background(), bytes.NewReader(data), newMemory(), ImportOptions{})
	must(t, err)
	return dump(t, built.Layer)
}

func dump(tb testing.TB, root *tree.Node) string {
	tb.Helper()
	var b strings.Builder
	must(tb, tree.Dump(&b, root))
	return b.String()
}

func TestMarkers(t *testing.T) {
	const meta = " mode=00 uid=0 gid=0 mtime=0"
	root := "/ dir implicit mode=0755 uid=0 gid=0 mtime=0\n"
	implied := " dir implicit mode=0755 uid=0 gid=0 mtime=0\n"
	f := func(name string) header { return header{name: name, typ: typeFile} }
	for name, c := range map[string]struct {
		members []header
		want    string
	}{
		"whiteout":              {[]header{f("a/.wh.gone")}, root + "/a" + implied + "/a/gone whiteout\n"},
		"whiteout as directory": {[]header{{name: "a/.wh.gone/", typ: typeDir}}, root + "/a" + implied + "/a/gone whiteout\n"},
		"opaque":                {[]header{f("a/.wh..wh..opq")}, root + "/a dir opaque implicit mode=0755 uid=0 gid=0 mtime=0\n"},
		"opaque root":           {[]header{f(".wh..wh..opq")}, "/ dir opaque implicit mode=0755 uid=0 gid=0 mtime=0\n"},
		"dots before":           {[]header{f("./.wh.gone")}, root + "/gone whiteout\n"},
		"not a prefix":          {[]header{f("a.wh.b")}, root + "/a.wh.b file" + meta + " size=0\n"},
		"long name":             {[]header{f(".wh." + strings.Repeat("n", 96))}, root + "/" + strings.Repeat("n", 96) + " whiteout\n"},
		"AUFS": {[]header{{name: ".wh..wh.plnk/", typ: typeDir}, f(".wh..wh.aufs"), f(".wh..wh.orph/x"), f(".wh..wh.plnk/7.1"), {name: "b", typ: typeLink, link: ".wh..wh.plnk/7.1"}, {name: "c", typ: typeLink, link: "./.wh..wh.plnk/7.1"}},
			root + "/b file" + meta + " size=0\n/c link target=/b\n"},
		"link out":     {[]header{{name: "l", typ: typeLink, link: "lower"}}, root + "/l unresolved target=/lower\n"},
		"volume label": {[]header{{name: "label", typ: typeVolume}, f("x")}, root + "/x file" + meta + " size=0\n"},
		"dump dir":     {[]header{{name: "d", typ: typeDump}}, root + "/d dir" + meta + "\n"},
		"absolute":     {[]header{f("/a")}, root + "/a file" + meta + " size=0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := layerOf(t, c.members...); got != c.want {
				t.Errorf("layer is\n%s want\n%s", got, c.want)
			}
		})
	}
	// A whiteout's name may be as long as any, which makes the member's name longer.
	name := strings.Repeat("n", tree.MaxName)
	built := importTar(t, paxMember(paxBody("path", ".wh."+name), header{name: "x", typ: typeFile}, ""), newMemory())
	if n := built.Layer.Child(name); n == nil || !n.Whiteout {
		t.Error("whiteout of a name of 255 bytes is lost")
	}
}

// TestSizes has contents around every size at which they are handled differently.
func TestSizes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	want := map[string][]byte{}
	for _, n := range []int{1, 511, 512, 513, 2047, 2048, 2049, slabSize - 512, slabSize - 1, slabSize, slabSize + 1, 3*slabSize + 5, 1 << 20, 1<<20 + 1, maxWhole - 1, maxWhole, maxWhole + 1, maxWhole + 3*slabSize + 7} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		name := "f" + time.Duration(n).String()
		want[name] = data
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(n), Mode: 0o644}))
		_, err := w.Write(data)
		must(t, err)
	}
	must(t, w.Close())
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(buf.Bytes()),
		"half":  iotest.HalfReader(bytes.NewReader(buf.Bytes())),
		"eof":   iotest.DataErrReader(bytes.NewReader(buf.Bytes())),
	} {
		t.Run(name, func(t *testing.T) {
			store := newMemory()
			var progress int64
			built, err := Import(context.Background(), r, store, ImportOptions{Workers: 3, Progress: func(n int64) {
				if n < progress {
					t.Errorf("progress goes back from %d to %d", progress, n)
				}
				progress = n
			}})
			must(t, err)
			if progress != int64(buf.Len()) {
				t.Errorf("progress ends at %d of %d", progress, buf.Len())
			}
			for name, data := range want {
				ino := built.Layer.Child(name).Inode
				switch {
				case len(data) <= DefaultInlineMax:
					if ino.Inline != string(data) {
						t.Errorf("%s is not inline", name)
					}
				case ino.Object != sha256.Sum256(data) || !bytes.Equal(store.objects[ino.Object], data):
					t.Errorf("%s has the wrong object", name)
				}
			}
			var out bytes.Buffer
			must(t, reopen(t, built).WriteTar(context.Background(), &out, store))
			if !bytes.Equal(out.Bytes(), buf.Bytes()) {
				t.Error("another tar came back")
			}
		})
	}
}

func TestDuplicates(t *testing.T) {
	var data []byte
	for range 3 {
		h := header{name: "same", typ: typeFile, size: 4096}
		data = append(h.append(data), bytes.Repeat([]byte("s"), 4096)...)
		h.name = "copy"
		data = append(h.append(data), bytes.Repeat([]byte("s"), 4096)...)
	}
	built := importTar(t, data, newMemory())
	if len(built.Objects) != 1 || built.Entries != 6 {
		t.Errorf("%d objects, %d entries", len(built.Objects), built.Entries)
	}
	roundTrip(t, data)
}

// TestAside has data that belong to nothing in the tree.
func TestAside(t *testing.T) {
	member := func(h header, n int) []byte {
		h.size = int64(n)
		return appendPadding(append(h.append(nil), bytes.Repeat([]byte("d"), n)...), int64(n))
	}
	data := slices.Concat(
		member(header{name: ".wh.gone", typ: typeFile}, 5000),
		member(header{name: "label", typ: typeVolume}, 100),
		member(header{name: "dumped/", typ: typeDump}, 3000),
		member(header{name: "old/", typ: typeFile}, 3000),
		member(header{name: ".wh..wh.aufs", typ: typeFile}, 1),
		member(header{name: "file", typ: typeFile}, 5000),
	)
	built := importTar(t, data, newMemory())
	if got := len(built.Layer.Children); got != 4 {
		t.Errorf("layer has %d names:\n%s", got, dump(t, built.Layer))
	}
	roundTrip(t, data)
}

func TestSinkFails(t *testing.T) {
	broken := errors.New("disk on fire")
	small := (&header{name: "small", typ: typeFile, size: 4096}).append(nil)
	small = append(small, make([]byte, 4096)...)
	large := (&header{name: "large", typ: typeFile, size: maxWhole + 512}).append(nil)
	large = append(large, make([]byte, maxWhole+512)...)
	for name, data := range map[string][]byte{"small": small, "large": large} {
		before := runtime.NumGoroutine()
		store := newMemory()
		store.fail = broken
		_, err := Import(context.Background(), bytes.NewReader(data), store, ImportOptions{})
		var ee *EntryError
		if !errors.Is(err, broken) || !errors.As(err, &ee) || ee.Name != name {
			t.Errorf("%s: %v", name, err)
		}
		checkGoroutines(t, before)
	}
}

func checkGoroutines(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left, %d were there before", runtime.NumGoroutine(), before)
}

func TestReaderFails(t *testing.T) {
	broken := errors.New("connection lost")
	data := goTar(t, tar.FormatPAX)
	for n := 0; n < len(data); n += 3 * blockSize / 2 {
		r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))
		if _, err := Import(context.Background(), r, newMemory(), ImportOptions{}); !errors.Is(err, broken) {
			t.Fatalf("failure at %d: %v", n, err)
		}
	}
}

// endless is a tar of one huge file.
type endless struct{ head []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	return len(p), nil
}

func TestCancel(t *testing.T) {
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	head := (&header{name: "huge", typ: typeFile, size: maxOctal11}).append(nil)
	if _, err := Import(ctx, &endless{head}, discard{}, ImportOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("import: %v", err)
	}
	hole := paxMember(paxBody("GNU.sparse.map", "0,1", "GNU.sparse.size", "10000000000"), header{name: "h", typ: typeFile}, "x")
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Import(ctx, bytes.NewReader(hole), discard{}, ImportOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("import of a hole: %v", err)
	}
	checkGoroutines(t, before)
}

func TestWriteTarNotices(t *testing.T) {
	data := typicalTar(t, 200)
	store := newMemory()
	built := importTar(t, data, store)
	rec := reopen(t, built)
	victim := built.Objects[3].ID
	good := store.objects[victim]

	check := func(want error) {
		t.Helper()
		before := runtime.NumGoroutine()
		var out bytes.Buffer
		err := rec.WriteTar(context.Background(), &out, store)
		if !errors.Is(err, want) {
			t.Errorf("error is %v, want %v", err, want)
		}
		if out.Len() >= len(data) {
			t.Error("a whole tar was written")
		}
		checkGoroutines(t, before)
	}
	store.objects[victim] = append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1)
	check(cas.ErrCorrupt)
	store.objects[victim] = good[:len(good)-1]
	check(cas.ErrCorrupt)
	delete(store.objects, victim)
	if err := rec.WriteTar(context.Background(), io.Discard, store); err == nil || !strings.Contains(err.Error(), victim.Digest().String()) {
		t.Errorf("error does not name the object: %v", err)
	}
	store.objects[victim] = good
	must(t, rec.WriteTar(context.Background(), io.Discard, store))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := rec.WriteTar(ctx, io.Discard, store); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("pipe is broken")
	if err := rec.WriteTar(context.Background(), failingWriter{broken}, store); !errors.Is(err, broken) {
		t.Errorf("writer that fails: %v", err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func FuzzParser(f *testing.F) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		f.Add(goTar(f, format))
	}
	f.Add(paxMember(paxBody("GNU.sparse.map", "0,10", "GNU.sparse.size", "100", "GNU.sparse.numblocks", "1"), header{name: "s", typ: typeFile}, "0123456789"))
	f.Add(paxMember(paxBody("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "100"), header{name: "s", typ: typeFile}, "1\n0\n10\n"+strings.Repeat("\x00", 505)+"0123456789"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Checksums stop a fuzzer early; make them right.
		fixed := bytes.Clone(data)
		for i := 0; i+blockSize <= len(fixed); i += blockSize {
			if b := fixed[i : i+blockSize]; string(b[257:262]) == "ustar" {
				resum(b)
			}
		}
		for _, data := range [][]byte{data, fixed} {
			store := newMemory()
			built, err := Import(context.Background(), bytes.NewReader(data), store, ImportOptions{Workers: 1, Limits: Limits{Holes: 1 << 20, File: 1 << 24}})
			if err != nil {
				continue
			}
			must(t, tree.CheckLayer(built.Layer))
			var out bytes.Buffer
			rec := reopen(t, built)
			must(t, rec.WriteTar(context.Background(), &out, store))
			if !bytes.Equal(out.Bytes(), data) {
				t.Fatal("another tar came back")
			}
			layer, err := rec.Layer()
			must(t, err)
			must(t, tree.Same(built.Layer, layer))
			packed, err := Pack(context.Background(), layer, nil, store, PackOptions{Source: store})
			must(t, err)
			if len(packed.Notes) == 0 {
				out.Reset()
				must(t, reopen(t, packed).WriteTar(context.Background(), &out, store))
				again := importTar(t, out.Bytes(), store)
				if again.DiffID != packed.DiffID {
					t.Fatal("the packed layer has another digest")
				}
				must(t, tree.Same(packed.Layer, again.Layer))
			}
		}
	})
}
