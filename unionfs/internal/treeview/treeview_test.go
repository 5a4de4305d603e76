package treeview

import (
	"bytes"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		view          View
		stored, shown string // "" does not appear
	}{
		{View{Namespace: unionfs.User}, "trusted.overlay.metacopy", "user.overlay.metacopy"},
		{View{Namespace: unionfs.User}, "trusted.overlay.redirect", "user.overlay.redirect"},
		{View{Namespace: unionfs.User}, "trusted.overlay.opaque", "user.overlay.opaque"},
		{View{Namespace: unionfs.User}, "trusted.overlay.layerfs", ""},
		{View{Namespace: unionfs.User}, "trusted.overlay.overlay.opaque", ""},
		{View{Namespace: unionfs.User}, "trusted.x", ""},
		{View{Namespace: unionfs.User}, "security.selinux", ""},
		{View{Namespace: unionfs.User}, "security.capability", "security.capability"},
		{View{Namespace: unionfs.User}, "system.posix_acl_access", "system.posix_acl_access"},
		{View{Namespace: unionfs.User}, "user.overlay.metacopy", "user.overlay.overlay.metacopy"},
		{View{Namespace: unionfs.User}, "user.overlay.overlay.x", "user.overlay.overlay.overlay.x"},
		{View{Namespace: unionfs.User, Contents: true}, "trusted.overlay.metacopy", ""},
		{View{Namespace: unionfs.User, Contents: true}, "trusted.overlay.redirect", ""},
		{View{Namespace: unionfs.Trusted}, "trusted.overlay.metacopy", "trusted.overlay.metacopy"},
		{View{Namespace: unionfs.Trusted}, "trusted.overlay.overlay.opaque", "trusted.overlay.overlay.opaque"},
		{View{Namespace: unionfs.Trusted}, "trusted.overlay.layerfs", ""},
		{View{Namespace: unionfs.Trusted}, "trusted.x", "trusted.x"},
		{View{Namespace: unionfs.Trusted}, "user.overlay.metacopy", "user.overlay.metacopy"},
		{View{Namespace: unionfs.Trusted, Contents: true}, "trusted.overlay.redirect", ""},
	} {
		shown, ok := c.view.Shown(c.stored)
		if shown != c.shown || ok != (c.shown != "") {
			t.Errorf("%+v shows %s as %q, want %q", c.view, c.stored, shown, c.shown)
		}
		if c.shown == "" {
			continue
		}
		if stored, ok := c.view.Stored(c.shown); !ok || stored != c.stored {
			t.Errorf("%+v: %s is stored as %q, want %q", c.view, c.shown, stored, c.stored)
		}
	}
	for _, name := range []string{"trusted.overlay.metacopy", "user.overlay.layerfs", "security.selinux"} {
		if stored, ok := (&View{Namespace: unionfs.User}).Stored(name); ok {
			t.Errorf("in a user namespace %s leads to %s", name, stored)
		}
	}
}

func TestOwners(t *testing.T) {
	o := Owners{UIDs: []Range{{0, 1}, {10, 5}}, GIDs: []Range{{0, 1}}, OtherUID: 7, OtherGID: 8}
	for id, want := range map[uint32]uint32{0: 0, 1: 7, 9: 7, 10: 10, 14: 14, 15: 7, 1<<32 - 1: 7} {
		if got := o.UID(id); got != want {
			t.Errorf("owner %d appears as %d, want %d", id, got, want)
		}
	}
	if all := (&Owners{}); all.UID(4711) != 4711 || all.GID(4711) != 4711 {
		t.Error("the zero value does not have all ids")
	}
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 99, 0, 0, 0, 8, 0, 4, 0, 99, 0, 0, 0, 2, 0}
	want := bytes.Clone(acl)
	want[16], want[24] = 7, 8
	o.MapValue("system.posix_acl_default", acl)
	if !bytes.Equal(acl, want) {
		t.Errorf("an ACL appears as %v, want %v", acl, want)
	}
	o.MapValue("system.posix_acl_default", acl[:3])
	o.MapValue("user.x", acl)
}
