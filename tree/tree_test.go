package tree

import (
	"strings"
	"testing"
)

func TestObjectID(t *testing.T) {
	id := ObjectID{0xab, 0xcd, 31: 0xef}
	path := "ab/cd" + strings.Repeat("0", 58) + "ef"
	if id.Path() != path {
		t.Errorf("path %q, want %q", id.Path(), path)
	}
	if got, want := id.Digest().String(), "sha256:"+strings.ReplaceAll(path, "/", ""); got != want {
		t.Errorf("digest %q, want %q", got, want)
	}
	if got, ok := ParseObjectPath(path); !ok || got != id {
		t.Errorf("parsed %v, %v", got, ok)
	}
	if id.IsZero() || !(ObjectID{}).IsZero() {
		t.Error("only the zero id is zero")
	}
	for _, s := range []string{"", "ab", path[:64], path + "0", strings.ToUpper(path), strings.Replace(path, "/", "0", 1), "zz" + path[2:], path[:63] + "zz"} {
		if got, ok := ParseObjectPath(s); ok {
			t.Errorf("%q parsed as %v", s, got)
		}
	}
}

func TestNames(t *testing.T) {
	for kind, want := range map[Kind]string{Add: "A add", Modify: "C modify", Delete: "D delete", 0: "? Kind(0)"} {
		if got := kind.Letter() + " " + kind.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Type(9).String(); got != "Type(9)" {
		t.Errorf("unknown type is %q", got)
	}
	if got := Path("a/b").String(); got != "a/b" {
		t.Errorf("path is %q", got)
	}
}
