package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"testing"
)

func TestConnect(t *testing.T) {
	w := newWorld(t)
	w.create(t, Spec{Name: "one", EnableIPv6: true})
	w.create(t, Spec{Name: "two", EnableIPv6: true})
	a := w.attach(t, Request{ID: "a", Name: "web", Network: joined("one"), Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}})
	b := w.attach(t, Request{ID: "b", Network: joined("two")})
	serve(t, b)
	serve(t, a)
	echo(t, a.File(), "a", 80)
	echo(t, w.street, "outside", 80)
	e := Endpoint{Network: "two", Aliases: []string{"site"}}
	if err := w.Connect(t.Context(), "a", a.File(), e); err != nil {
		t.Fatal(err)
	}
	if err := w.Connect(t.Context(), "a", a.File(), e); !errors.Is(err, fs.ErrExist) {
		t.Errorf("connected twice: %v", err)
	}
	rec, err := w.Inspect("a")
	if err != nil || len(rec.Networks) != 2 || rec.Networks[1].Interface != "eth1" {
		t.Fatalf("%+v, %v", rec, err)
	}
	in := rec.Networks[1].IPv4.Addr()
	wantAnswer(t, b.File(), "tcp", netip.AddrPortFrom(in, 80).String(), "a "+b.ip().String())
	for _, name := range []string{"web.", "site."} {
		if got, err := resolve(b, "udp", name); err != nil || len(got) != 2 {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	if got, err := resolve(a, "udp", "b."); err != nil || len(got) != 2 {
		t.Errorf("b is %v, %v", got, err)
	}

	// The port moves to the other network, and so does the way out.
	if err := w.Disconnect(t.Context(), "a", a.File(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := w.Disconnect(t.Context(), "a", a.File(), "one"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("disconnected twice: %v", err)
	}
	wantAnswer(t, w.street, "tcp", "198.51.100.1:8080", "a 198.51.100.2")
	wantAnswer(t, a.File(), "tcp", "198.51.100.2:80", "outside 198.51.100.1")
	if err := w.Remove(t.Context(), "one"); err != nil {
		t.Errorf("a network that nobody is in any more: %v", err)
	}
	if err := w.Disconnect(t.Context(), "a", nil, "two"); err != nil {
		t.Fatal(err)
	}
	wantSilence(t, w.street, "tcp", "198.51.100.1:8080")
	wantSilence(t, b.File(), "tcp", netip.AddrPortFrom(in, 80).String())

	none := w.attach(t, Request{ID: "none", Network: Choice{Mode: ModeNone}})
	if err := w.Connect(t.Context(), "none", none.File(), e); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("connect who has no network: %v", err)
	}
	if err := w.Connect(t.Context(), "nobody", none.File(), e); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("connect nobody: %v", err)
	}
	if err := w.Connect(t.Context(), "b", b.File(), Endpoint{Network: "three"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("connect to nothing: %v", err)
	}
	// A failure leaves it as it was.
	if err := w.Connect(t.Context(), "b", b.File(), Endpoint{Network: "bridge", IPv4: netip.MustParseAddr("192.0.2.1")}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an address of another network: %v", err)
	}
	if rec, err := w.Inspect("b"); err != nil || len(rec.Networks) != 1 {
		t.Errorf("%+v, %v", rec, err)
	}
	wantSilence(t, w.host, "tcp", fmt.Sprintf("%s:81", b.ip()))
}
