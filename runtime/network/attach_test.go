package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMembersReachEachOther(t *testing.T) {
	w := newWorld(t)
	a := w.attach(t, Request{ID: "a"})
	b := w.attach(t, Request{ID: "b"})
	echo(t, a.File(), "a", 80)
	wantAnswer(t, b.File(), "tcp", fmt.Sprintf("%s:80", a.ip()), "a "+b.ip().String())
	wantAnswer(t, b.File(), "udp", fmt.Sprintf("%s:80", a.ip()), "a "+b.ip().String())
	wantAnswer(t, w.host, "tcp", fmt.Sprintf("%s:80", a.ip()), "a "+a.rec.Networks[0].Gateway4.String())
}

// What goes out has the host's address, and what is not published is out of reach.
func TestOutside(t *testing.T) {
	w := newWorld(t)
	a := w.attach(t, Request{ID: "a"})
	echo(t, w.street, "street", 80)
	echo(t, a.File(), "a", 80)
	wantAnswer(t, a.File(), "tcp", "198.51.100.2:80", "street 198.51.100.1")
	wantAnswer(t, a.File(), "udp", "198.51.100.2:80", "street 198.51.100.1")
	err := inNamespace(w.street, func() error {
		r, err := openRoute()
		if err != nil {
			return err
		}
		defer r.Close()
		l, err := r.link("eth0")
		if err != nil {
			return err
		}
		return r.addDefaultRoute(l.index, netip.MustParseAddr("198.51.100.1"))
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSilence(t, w.street, "tcp", fmt.Sprintf("%s:80", a.ip()))
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	tcp, err := ParsePorts("8080:80")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := ParsePorts("8080:80/udp")
	if err != nil {
		t.Fatal(err)
	}
	a := w.attach(t, Request{ID: "a", Name: "web", Ports: append(tcp, udp...)})
	b := w.attach(t, Request{ID: "b"})
	echo(t, a.File(), "a", 80)
	gw := a.rec.Networks[0].Gateway4.String()
	for _, p := range []string{"tcp", "udp"} {
		wantAnswer(t, w.street, p, "198.51.100.1:8080", "a 198.51.100.2")
		wantAnswer(t, w.host, p, "127.0.0.1:8080", "a "+gw)
		wantAnswer(t, w.host, p, "198.51.100.1:8080", "a "+gw)
		wantAnswer(t, w.host, p, gw+":8080", "a "+gw)
		// A neighbour, and the container itself, by the host's address.
		wantAnswer(t, b.File(), p, "198.51.100.1:8080", "a "+gw)
		wantAnswer(t, a.File(), p, "198.51.100.1:8080", "a "+gw)
	}
	_, err = w.Attach(t.Context(), Request{ID: "c", Ports: tcp})
	if !errors.Is(err, fs.ErrExist) || !contains(err, "container web has published it") {
		t.Errorf("port given twice: %v", err)
	}
}

// A port that a server of the host has just given up is free, and one that it has is not.
func TestHeldPorts(t *testing.T) {
	w := newWorld(t)
	port := []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}
	server, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "x", Ports: port}); !errors.Is(err, fs.ErrExist) || !contains(err, "another program") {
		t.Errorf("a port that a program has: %v", err)
	}
	client, err := net.Dial("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	c, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// The side that ends first keeps the connection for a minute.
	if err := errors.Join(c.Close(), client.Close(), server.Close()); err != nil {
		t.Fatal(err)
	}
	a := w.attach(t, Request{ID: "a", Ports: port})
	echo(t, a.File(), "a", 80)
	wantAnswer(t, w.street, "tcp", "198.51.100.1:8080", "a 198.51.100.2")
	if l, err := net.Listen("tcp", ":8080"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a program takes a published port: %v, %v", l, err)
	}
	if err := errors.Join(a.Close(), w.Detach(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		t.Fatalf("a port is not given back: %v", err)
	}
	l.Close()
}
