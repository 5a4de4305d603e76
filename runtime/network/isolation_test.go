package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Members of different networks are strangers, but for what is published.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	w.create(t, Spec{Name: "one"})
	w.create(t, Spec{Name: "two"})
	a := w.attach(t, Request{ID: "a", Network: joined("one"), Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}})
	b := w.attach(t, Request{ID: "b", Network: joined("two")})
	both := w.attach(t, Request{ID: "c", Network: joined("one", "two")})
	echo(t, a.File(), "a", 80)
	echo(t, b.File(), "b", 80)
	wantSilence(t, b.File(), "tcp", fmt.Sprintf("%s:80", a.ip()))
	wantSilence(t, a.File(), "tcp", fmt.Sprintf("%s:80", b.ip()))
	wantAnswer(t, b.File(), "tcp", "198.51.100.1:8080", "a "+b.ip().String())
	wantAnswer(t, both.File(), "tcp", fmt.Sprintf("%s:80", a.ip()), "a "+both.ip().String())
	wantAnswer(t, both.File(), "tcp", fmt.Sprintf("%s:80", b.ip()), "b "+both.rec.Networks[1].IPv4.Addr().String())
}

func TestInternalNetwork(t *testing.T) {
	w := newWorld(t)
	w.create(t, Spec{Name: "in", Internal: true})
	echo(t, w.street, "street", 80)
	a := w.attach(t, Request{ID: "a", Network: joined("in")})
	b := w.attach(t, Request{ID: "b", Network: joined("in")})
	echo(t, b.File(), "b", 80)
	wantAnswer(t, a.File(), "tcp", fmt.Sprintf("%s:80", b.ip()), "b "+a.ip().String())
	wantSilence(t, a.File(), "tcp", "198.51.100.2:80")
	// Nor with a route that the container made itself.
	err := inNamespace(a.File(), func() error {
		r, err := openRoute()
		if err != nil {
			return err
		}
		defer r.Close()
		l, err := r.link("eth0")
		if err != nil {
			return err
		}
		nw, err := w.network("in")
		if err != nil {
			return err
		}
		return r.addDefaultRoute(l.index, nw.Gateway4)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSilence(t, a.File(), "tcp", "198.51.100.2:80")
	_, err = w.Attach(t.Context(), Request{ID: "c", Network: joined("in"), Ports: []PortMapping{{ContainerPort: 80, Protocol: TCP}}})
	if !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("port of an internal network: %v", err)
	}
}

// What listens on the host's 127.0.0.1 is not for containers, although the bridge has
// route_localnet set: a container that sends there by its gateway is not heard.
func TestHostLoopbackIsOutOfReach(t *testing.T) {
	w := newWorld(t)
	a := w.attach(t, Request{ID: "a"})
	echo(t, w.host, "host", 7)
	wantAnswer(t, w.host, "udp", "127.0.0.1:7", "host 127.0.0.1")
	gw := a.rec.Networks[0].Gateway4
	wantAnswer(t, a.File(), "udp", fmt.Sprintf("%s:7", gw), "host "+a.ip().String())
	err := inNamespace(a.File(), func() error {
		// The attacker's side: 127.0.0.0/8 is no longer its own.
		if err := setSysctl("net/ipv4/conf/eth0/route_localnet", "1"); err != nil {
			return err
		}
		r, err := openRoute()
		if err != nil {
			return err
		}
		defer r.Close()
		l, err := r.link("lo")
		if err != nil {
			return err
		}
		if err := r.deleteAddress(l.index, netip.MustParsePrefix("127.0.0.1/8")); err != nil {
			return err
		}
		eth, err := r.link("eth0")
		if err != nil {
			return err
		}
		return r.addRoute(eth.index, netip.MustParsePrefix("127.0.0.0/8"), gw)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSilence(t, a.File(), "udp", "127.0.0.1:7")
	wantSilence(t, a.File(), "tcp", "127.0.0.1:7")
}

func TestModes(t *testing.T) {
	w := newWorld(t)
	none := w.attach(t, Request{ID: "none", Network: Choice{Mode: ModeNone}})
	echo(t, none.File(), "none", 80)
	wantAnswer(t, none.File(), "tcp", "127.0.0.1:80", "none 127.0.0.1")
	err := inNamespace(none.File(), func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if l.Flags&net.FlagLoopback == 0 && l.Flags&net.FlagUp != 0 {
				t.Errorf("a container without a network has %s", l.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	same := w.attach(t, Request{ID: "same", Network: Choice{Mode: ModeContainer}, Target: none.File(), TargetID: "none"})
	wantAnswer(t, same.File(), "tcp", "127.0.0.1:80", "none 127.0.0.1")
	if same.HostsFile() != none.HostsFile() || same.ResolvFile() != none.ResolvFile() {
		t.Error("containers of one namespace have different names for hosts")
	}
	host := w.attach(t, Request{ID: "host", Network: Choice{Mode: ModeHost}})
	if host.Path() != "" || host.File() != nil {
		t.Errorf("the host's namespace has the path %q", host.Path())
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := w.Attach(t.Context(), Request{ID: "x", Network: Choice{Mode: ModeContainer}, Target: f}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a device as a namespace: %v", err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "x", Network: Choice{Mode: ModeNone}, Ports: []PortMapping{{ContainerPort: 1, Protocol: TCP}}}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a port without a network: %v", err)
	}
}

// A namespace that somebody else made is set up as a new one.
func TestGivenNamespace(t *testing.T) {
	w := newWorld(t)
	ns, err := newNamespace(func(*os.File) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	a := w.attach(t, Request{ID: "a", Namespace: ns})
	b := w.attach(t, Request{ID: "b"})
	echo(t, ns, "a", 80)
	wantAnswer(t, b.File(), "tcp", fmt.Sprintf("%s:80", a.ip()), "a "+b.ip().String())
}

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	nw := w.create(t, Spec{Name: "six", EnableIPv6: true})
	a := w.attach(t, Request{ID: "a", Network: joined("six"), Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: TCP}}})
	b := w.attach(t, Request{ID: "b", Network: joined("six")})
	echo(t, a.File(), "a", 80)
	wantAnswer(t, b.File(), "tcp", fmt.Sprintf("[%s]:80", a.ip6()), "a "+b.ip6().String())
	wantAnswer(t, b.File(), "udp", fmt.Sprintf("[%s]:80", a.ip6()), "a "+b.ip6().String())
	wantAnswer(t, w.host, "tcp", fmt.Sprintf("[%s]:8080", nw.Gateway6), "a "+nw.Gateway6.String())
	plain := w.attach(t, Request{ID: "plain"})
	err := inNamespace(plain.File(), func() error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth.Addrs()
		if len(addrs) != 1 {
			t.Errorf("a network without IPv6 gave %v", addrs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := w.Attach(t.Context(), Request{ID: "x", Network: Choice{Mode: ModeBridge, Endpoints: []Endpoint{{Network: "bridge", IPv6: a.ip6()}}}}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an address of IPv6 in a network without: %v", err)
	}
}

func (r *routeConn) deleteAddress(index int, p netip.Prefix) error {
	head := []byte{family(p.Addr()), byte(p.Bits()), 0, 0, byte(index), 0, 0, 0}
	_, err := r.do(unix.RTM_DELADDR, change, head, nil)
	return err
}

func (r *routeConn) addRoute(index int, to netip.Prefix, gateway netip.Addr) error {
	head := make([]byte, unix.SizeofRtMsg)
	head[0], head[1] = family(gateway), byte(to.Bits())
	head[4], head[5], head[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RTN_UNICAST
	_, err := r.do(unix.RTM_NEWROUTE, create, head, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_DST, to.Addr().AsSlice())
		e.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		e.Uint32(unix.RTA_OIF, uint32(index))
	})
	return err
}
