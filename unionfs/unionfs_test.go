package unionfs_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
)

func TestValidate(t *testing.T) {
	many := func(n int) []unionfs.Lower {
		lower := make([]unionfs.Lower, n)
		for i := range lower {
			lower[i].Dir = "d"
		}
		return lower
	}
	for _, c := range []struct {
		name   string
		layers unionfs.Layers
		ok     bool
	}{
		{"nothing", unionfs.Layers{}, false},
		{"a tree", unionfs.Layers{Lower: []unionfs.Lower{{Tree: "t"}}}, true},
		{"an upper alone", unionfs.Layers{Upper: "u", Work: "w"}, true},
		{"an upper without work", unionfs.Layers{Lower: many(1), Upper: "u"}, false},
		{"work without upper", unionfs.Layers{Lower: many(1), Work: "w"}, false},
		{"tree and directory in one", unionfs.Layers{Lower: []unionfs.Lower{{Tree: "t", Dir: "d"}}}, false},
		{"an empty lower", unionfs.Layers{Lower: []unionfs.Lower{{}}}, false},
		{"an empty data path", unionfs.Layers{Lower: many(1), Data: []string{""}}, false},
		{"data alone", unionfs.Layers{Data: []string{"d"}}, false},
		{"the most layers", unionfs.Layers{Lower: many(unionfs.MaxLayers - 1), Data: []string{"d"}}, true},
		{"one too many", unionfs.Layers{Lower: many(unionfs.MaxLayers), Data: []string{"d"}}, false},
	} {
		err := c.layers.Validate()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNamespace(t *testing.T) {
	for _, c := range []struct {
		namespace unionfs.Namespace
		stored    string
		own       string // the union's own attribute, or ""
		visible   string // what shows through the mount, or ""
	}{
		{unionfs.Trusted, "trusted.overlay.opaque", "opaque", ""},
		{unionfs.Trusted, "trusted.overlay.overlay.opaque", "", "trusted.overlay.opaque"},
		{unionfs.Trusted, "trusted.overlay.overlay.overlay.opaque", "", "trusted.overlay.overlay.opaque"},
		{unionfs.Trusted, "trusted.overlayx", "", "trusted.overlayx"},
		{unionfs.Trusted, "user.overlay.opaque", "", "user.overlay.opaque"},
		{unionfs.Trusted, "trusted.overlay.", "", ""},
		{unionfs.User, "user.overlay.metacopy", "metacopy", ""},
		{unionfs.User, "trusted.overlay.metacopy", "", "trusted.overlay.metacopy"},
		{unionfs.User, "user.overlay.overlay.redirect", "", "user.overlay.redirect"},
	} {
		if own, _ := c.namespace.Own(c.stored); own != c.own {
			t.Errorf("%s: own attribute %q of %q, want %q", c.namespace, own, c.stored, c.own)
		}
		visible, ok := c.namespace.Unescape(c.stored)
		if visible != c.visible || ok != (c.visible != "") {
			t.Errorf("%s: %q shows as %q, %v, want %q", c.namespace, c.stored, visible, ok, c.visible)
		}
		if ok && c.namespace.Escape(visible) != c.stored {
			t.Errorf("%s: %q is stored as %q, want %q", c.namespace, visible, c.namespace.Escape(visible), c.stored)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("trusted.overlay.opaque")
	f.Add("trusted.overlay.overlay.x")
	f.Add("security.capability")
	f.Fuzz(func(t *testing.T, name string) {
		for _, n := range []unionfs.Namespace{unionfs.Trusted, unionfs.User} {
			stored := n.Escape(name)
			if _, own := n.Own(stored); own {
				t.Errorf("%q is stored as the union's own %q", name, stored)
			}
			if back, ok := n.Unescape(stored); !ok || back != name {
				t.Errorf("%q is stored as %q and comes back as %q, %v", name, stored, back, ok)
			}
		}
	})
}

func TestHasFeature(t *testing.T) {
	features := []unionfs.Feature{{Name: "here", OK: true}, {Name: "not", OK: false}}
	for name, want := range map[string]bool{"here": true, "not": false, "unknown": false} {
		if got := unionfs.HasFeature(features, name); got != want {
			t.Errorf("HasFeature(%q) = %v, want %v", name, got, want)
		}
	}
}
