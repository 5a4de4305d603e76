package snapshot

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/tree"
	"github.com/opencontainers/go-digest"
)

const someHex = "9cc7f01b48d2764d36d9510af6abc9a794e9a147196df0d6768ea7823bd8efeb"

func TestChain(t *testing.T) {
	// The example of the OCI image specification's formula, worked out with sha256sum.
	a, b := DiffID("sha256:"+strings.Repeat("a", 64)), DiffID("sha256:"+strings.Repeat("b", 64))
	got := Chain([]DiffID{a, b})
	want := ChainID(digest.FromString(string(a) + " " + string(b)))
	if got[0] != ChainID(a) || got[1] != want {
		t.Errorf("chain %v, want %s and %s", got, a, want)
	}
}

func TestParseKey(t *testing.T) {
	for s, ok := range map[string]bool{
		"a": true, "A9_.-x": true, strings.Repeat("k", 128): true,
		"": false, "-a": false, ".a": false, "a/b": false, "a b": false, "..": false, strings.Repeat("k", 129): false, "ä": false,
	} {
		if _, err := ParseKey(s); (err == nil) != ok {
			t.Errorf("ParseKey(%q): %v, want ok %v", s, err, ok)
		}
	}
}

func TestNewKeyIsAKey(t *testing.T) {
	for _, word := range []string{"debian", "", "--", "Ä", "a b/c:d", strings.Repeat("x", 300), "_x"} {
		k := NewKey(word, [4]byte{1, 2, 3, 4})
		if _, err := ParseKey(string(k)); err != nil {
			t.Errorf("NewKey(%q): %v", word, err)
		}
	}
}

func TestParseRecordRefuses(t *testing.T) {
	good := `{"version":1,"key":"k","kind":"active","layers":["sha256:` + someHex + `"],"created":"2026-01-01T00:00:00Z"}`
	if _, err := parseRecord([]byte(good)); err != nil {
		t.Fatalf("a good record: %v", err)
	}
	for what, data := range map[string]string{
		"version":   strings.Replace(good, `"version":1`, `"version":2`, 1),
		"kind":      strings.Replace(good, "active", "odd", 1),
		"key":       strings.Replace(good, `"k"`, `"../k"`, 1),
		"layer":     strings.Replace(good, someHex, someHex[1:], 1),
		"algorithm": strings.Replace(good, "sha256:"+someHex, "sha512:"+someHex+someHex, 1),
		"below":     strings.Replace(good, `"created"`, `"below":["a/b"],"created"`, 1),
		"no JSON":   "{",
		"too large": good + strings.Repeat(" ", maxRecordBytes),
	} {
		if _, err := parseRecord([]byte(data)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"key":"k","kind":"sealed","layers":["sha256:` + someHex + `"],"below":["a","b"],"labels":{"x":"y"},"created":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			return
		}
		again, err := encodeRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseRecord(again)
		if err != nil {
			t.Fatalf("a record that was accepted is refused when written again: %v", err)
		}
		a, _ := json.Marshal(rec)
		b, _ := json.Marshal(back)
		if string(a) != string(b) {
			t.Fatalf("record changed: %s to %s", a, b)
		}
		for _, id := range Chain(rec.Layers) {
			if _, err := treeOptions(id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseBlob(f *testing.F) {
	d := digest.Digest("sha256:" + someHex)
	f.Add([]byte(`{"digest":"sha256:` + someHex + `","size":3,"diffID":"sha256:` + someHex + `","format":"gzip"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBlob(d, data)
		if err == nil && (b.Digest != d || b.Size < 0) {
			t.Fatalf("accepted %+v", b)
		}
	})
}

func TestCompose(t *testing.T) {
	file := func(name string) *tree.Node { return &tree.Node{Name: name, Inode: &tree.Inode{Type: tree.Regular}} }
	dir := func(name string, c ...*tree.Node) *tree.Node {
		return &tree.Node{Name: name, Inode: tree.Implied(), Children: c}
	}
	gone := func(name string) *tree.Node { return &tree.Node{Name: name, Whiteout: true} }
	opaque := func(n *tree.Node) *tree.Node { c := *n; c.Opaque = true; return &c }
	for what, c := range map[string]struct{ lower, upper, want *tree.Node }{
		"both add":               {dir("", file("a")), dir("", file("b")), dir("", file("a"), file("b"))},
		"upper removes":          {dir("", file("a")), dir("", gone("a")), dir("", gone("a"))},
		"upper adds again":       {dir("", gone("a")), dir("", file("a")), dir("", file("a"))},
		"directory over removal": {dir("", gone("a")), dir("", dir("a", file("x"))), dir("", opaque(dir("a", file("x"))))},
		"directory over file":    {dir("", file("a")), dir("", dir("a")), dir("", opaque(dir("a")))},
		"opaque hides lower":     {dir("", dir("a", file("x"))), dir("", opaque(dir("a", file("y")))), dir("", opaque(dir("a", file("y"))))},
		"lower opaque stays":     {dir("", opaque(dir("a", file("x")))), dir("", dir("a", file("y"))), dir("", opaque(dir("a", file("x"), file("y"))))},
	} {
		if got := compose(c.lower, c.upper); !reflect.DeepEqual(simple(got), simple(c.want)) {
			t.Errorf("%s: %v, want %v", what, simple(got), simple(c.want))
		}
	}
}

// simple prints the shape of a layer.
func simple(n *tree.Node) string {
	s := n.Name
	switch {
	case n.Whiteout:
		return s + "-"
	case !n.IsDir():
		return s
	case n.Opaque:
		s += "!"
	}
	s += "("
	for _, c := range n.Children {
		s += simple(c) + " "
	}
	return s + ")"
}
