package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/layerfs/layerfs/internal/testenv"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(attacher); dir != "" {
		fmt.Fprintln(os.Stderr, attachForever(dir))
		os.Exit(1)
	}
	if os.Getenv(asStranger) == "" {
		testenv.OwnNetwork()
	}
	os.Exit(m.Run())
}

// world is a host with networks: a namespace of its own with an address in a street,
// 198.51.100.1, in which 198.51.100.2 is another machine, and its default gateway.
type world struct {
	*Networks
	host   *os.File
	street *os.File // namespace of the other machine
	dir    string
}

// newWorld makes a world, and checks at the end that nothing is left of it.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	var err error
	if w.Networks, err = Open(w.dir, Options{Resolv: "/dev/null"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.host, err = os.Open(currentNamespace); err != nil {
		t.Fatal(err)
	}
	r, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.street = w.machine(t, "street0", "198.51.100.1/24", "198.51.100.2/24")
	up, err := r.link("street0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.addDefaultRoute(up.index, netip.MustParseAddr("198.51.100.2")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Sweep(context.Background(), func(string) bool { return false }); err != nil {
			t.Errorf("sweep: %v", err)
		}
		w.wantNothing(t)
		if err := r2delete("street0"); err != nil {
			t.Error(err)
		}
		if err := errors.Join(w.street.Close(), w.host.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

func r2delete(name string) error {
	r, err := openRoute()
	if err != nil {
		return err
	}
	defer r.Close()
	l, err := r.link(name)
	if err != nil {
		return err
	}
	return r.deleteLink(l.index)
}

// machine makes another machine, joined to this host by a cable.
func (w *world) machine(t testing.TB, name, here, there string) *os.File {
	t.Helper()
	r, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ns, err := newNamespace(func(ns *os.File) error {
		inner, err := openRoute()
		if err != nil {
			return err
		}
		defer inner.Close()
		v := veth{name: name, peer: "eth0", mtu: 1400, ns: int(ns.Fd()), mac: macFor(netip.MustParsePrefix(there).Addr())}
		if err := r.addVeth(v); err != nil {
			return err
		}
		l, err := inner.link("eth0")
		if err != nil {
			return err
		}
		return errors.Join(inner.addAddress(l.index, netip.MustParsePrefix(there)), inner.switchOn(l.index))
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.link(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.addAddress(l.index, netip.MustParsePrefix(here)); err != nil {
		t.Fatal(err)
	}
	return ns
}

// wantNothing checks that neither directory nor kernel has anything of a container.
func (w *world) wantNothing(t testing.TB) {
	t.Helper()
	r, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	links, err := r.links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.kind == kindBridge || l.kind == kindVeth && l.name != "street0" {
			t.Errorf("left: interface %s", l.name)
		}
	}
	fw, err := openFirewall()
	if err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	if there, err := fw.exists(); there || err != nil {
		t.Errorf("left: table %s, %v", tableName, err)
	}
	dirs := []string{dirContainers}
	all, err := w.networks()
	if err != nil {
		t.Fatal(err)
	}
	for _, net := range all {
		dirs = append(dirs, dirNetworks+"/"+net.Name+"/"+dirLeases, dirNetworks+"/"+net.Name+"/"+dirNames)
	}
	for _, d := range dirs {
		names, err := w.names(d)
		if err != nil || len(names) > 0 {
			t.Errorf("left in %s: %v, %v", d, names, err)
		}
	}
}

// attach gives a container of the test a network; the test's end takes it back.
func (w *world) attach(t testing.TB, r Request) *Attachment {
	t.Helper()
	a, err := w.Attach(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), w.Detach(context.Background(), r.ID)); err != nil {
			t.Error(err)
		}
	})
	return a
}

// create makes a network.
func (w *world) create(t testing.TB, s Spec) *Network {
	t.Helper()
	net, err := w.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// joined is a choice of networks by name.
func joined(names ...string) Choice {
	c := Choice{Mode: ModeBridge}
	for _, n := range names {
		c.Endpoints = append(c.Endpoints, Endpoint{Network: n})
	}
	return c
}

func (a *Attachment) ip() netip.Addr  { return a.rec.Networks[0].IPv4.Addr() }
func (a *Attachment) ip6() netip.Addr { return a.rec.Networks[0].IPv6.Addr() }

// echo answers every connection and datagram to a port, in a namespace, with a greeting
// and the address that it sees.
func echo(t testing.TB, ns *os.File, greeting string, port int) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := inNamespace(ns, func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	answer := func(from net.Addr) []byte {
		host, _, _ := net.SplitHostPort(from.String())
		return []byte(greeting + " " + host)
	}
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(answer(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		for {
			_, from, err := udp.ReadFrom(make([]byte, 16))
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(answer(from), from)
		}
	}()
}

// Times for an answer that is wanted, and for one that should not come.
const (
	patience   = 5 * time.Second
	impatience = time.Second / 4
)

// ask returns what an address answers, asked from a namespace; nil is the own one.
func ask(ns *os.File, protocol, addr string, wait time.Duration) (string, error) {
	var answer []byte
	in := inNamespace
	if ns == nil {
		in = func(_ *os.File, f func() error) error { return f() }
	}
	err := in(ns, func() error {
		c, err := net.DialTimeout(protocol, addr, wait)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		if strings.HasPrefix(protocol, "udp") {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			answer = make([]byte, 128)
			n, err := c.Read(answer)
			answer = answer[:n]
			return err
		}
		answer, err = io.ReadAll(c)
		return err
	})
	return string(answer), err
}

func wantAnswer(t testing.TB, ns *os.File, protocol, addr, want string) {
	t.Helper()
	got, err := ask(ns, protocol, addr, patience)
	if err != nil || got != want {
		t.Errorf("%s %s answers %q, %v; want %q", protocol, addr, got, err, want)
	}
}

func wantSilence(t testing.TB, ns *os.File, protocol, addr string) {
	t.Helper()
	if got, err := ask(ns, protocol, addr, impatience); err == nil {
		t.Errorf("%s %s answers %q", protocol, addr, got)
	}
}

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
