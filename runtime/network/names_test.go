package network

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// serve runs what an attachment needs to be run.
func serve(t testing.TB, a *Attachment) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// resolve asks as a program in the container would.
func resolve(a *Attachment, protocol, name string) ([]string, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (c net.Conn, err error) {
		err = inNamespace(a.File(), func() error {
			c, err = net.DialTimeout(protocol, "127.0.0.11:53", time.Second)
			return err
		})
		return c, err
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	found, err := r.LookupHost(ctx, name)
	slices.Sort(found)
	return found, err
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	w.create(t, Spec{Name: "app", EnableIPv6: true})
	db := joined("app")
	db.Endpoints[0].Aliases = []string{"store", "DB.Internal"}
	a := w.attach(t, Request{ID: "0123456789abcdef", Name: "db_1", Network: db})
	b := w.attach(t, Request{ID: "b", Name: "web", Hostname: "www", Network: joined("app")})
	serve(t, a)
	serve(t, b)
	for _, protocol := range []string{"udp", "tcp"} {
		for _, name := range []string{"db_1.", "DB_1.", "store.", "0123456789ab.", "db.internal.", "db_1.app."} {
			got, err := resolve(b, protocol, name)
			if want := []string{a.ip().String(), a.ip6().String()}; err != nil || !slices.Equal(got, want) {
				t.Errorf("%s by %s: %v, %v; want %v", name, protocol, got, err, want)
			}
		}
		if got, err := resolve(a, protocol, "www."); err != nil || len(got) != 2 {
			t.Errorf("www by %s: %v, %v", protocol, got, err)
		}
		var none *net.DNSError
		if got, err := resolve(b, protocol, "nobody."); !errors.As(err, &none) || !none.IsNotFound {
			t.Errorf("nobody by %s: %v, %v", protocol, got, err)
		}
	}
	// Who shares a name is found together.
	c := w.attach(t, Request{ID: "c", Network: db})
	if got, err := resolve(b, "udp", "store."); err != nil || len(got) != 4 {
		t.Errorf("a name of two: %v, %v", got, err)
	}
	if err := errors.Join(c.Close(), w.Detach(t.Context(), "c")); err != nil {
		t.Fatal(err)
	}
	if got, err := resolve(b, "udp", "store."); err != nil || len(got) != 2 {
		t.Errorf("a name of one again: %v, %v", got, err)
	}
	data, err := os.ReadFile(b.ResolvFile())
	if err != nil || !strings.Contains(string(data), "nameserver 127.0.0.11\n") {
		t.Errorf("resolv.conf: %q, %v", data, err)
	}
}

// Members of the default network do not know each other's names, as in Docker.
func TestNoNamesByDefault(t *testing.T) {
	w := newWorld(t)
	a := w.attach(t, Request{ID: "a", Name: "a", DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}})
	if a.names != nil {
		t.Error("the default network serves names")
	}
	b := w.attach(t, Request{ID: "b", Links: []Link{{"a", "db"}}, Hosts: []Host{{"x", netip.MustParseAddr("192.0.2.1")}, {Name: "gw"}}})
	data, err := os.ReadFile(b.HostsFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{a.ip().String() + "\tdb a\n", "192.0.2.1\tx\n", b.rec.Networks[0].Gateway4.String() + "\tgw\n", b.ip().String() + "\tb\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("hosts lacks %q:\n%s", want, data)
		}
	}
	data, err = os.ReadFile(a.ResolvFile())
	if err != nil || string(data) != "nameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf: %q, %v", data, err)
	}
}

func FuzzAnswer(f *testing.F) {
	n, err := Open(f.TempDir(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	defer n.Close()
	if err := n.root.MkdirAll(namePath("app", "db"), 0o700); err != nil {
		f.Fatal(err)
	}
	m := Membership{Network: "app", Names: []string{"db"}}
	for i := range 100 { // more than an answer by UDP holds
		m.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 24)
		if err := n.writeNames(m, "c"+strconv.Itoa(i)); err != nil {
			f.Fatal(err)
		}
	}
	if err := n.root.Mkdir(dirContainers+"/x", 0o700); err != nil {
		f.Fatal(err)
	}
	if err := n.writeRecord(&Record{ID: "x", Networks: []Membership{{Network: "app"}}}); err != nil {
		f.Fatal(err)
	}
	r := &responder{n: n, id: "x"}
	question := func(name string, kind dnsmessage.Type) []byte {
		q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(question("db.", dnsmessage.TypeA), false)
	f.Add(question("db.app.", dnsmessage.TypeA), true)
	f.Add(question("1.0.0.10.in-addr.arpa.", dnsmessage.TypePTR), false)
	f.Add(question("x.", dnsmessage.TypeMX), true)
	f.Fuzz(func(t *testing.T, data []byte, stream bool) {
		answer := r.answer(t.Context(), data, stream)
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || !m.Response || m.ID != binary.BigEndian.Uint16(data) {
			t.Fatalf("answer %x to %x: %v", answer, data, err)
		}
		if !stream && len(answer) > maxQuestion {
			t.Fatalf("%d bytes by UDP", len(answer))
		}
	})
}

// An answer that is too long for a datagram is had by a stream.
func TestLongAnswer(t *testing.T) {
	w := newWorld(t)
	w.create(t, Spec{Name: "app"})
	many := joined("app")
	many.Endpoints[0].Aliases = []string{"many"}
	const members = 40 // of 16 bytes each
	for i := range members {
		w.attach(t, Request{ID: "c" + strconv.Itoa(i), Network: many})
	}
	a := w.attach(t, Request{ID: "a", Network: joined("app")})
	serve(t, a)
	if got, err := resolve(a, "tcp", "many."); err != nil || len(got) != members {
		t.Errorf("%d addresses by tcp, %v", len(got), err)
	}
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("many."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(a.names.answer(t.Context(), b, false)); err != nil || !m.Truncated || len(m.Answers) != 0 {
		t.Errorf("by udp: %+v, %v", m, err)
	}
}

// What is not known is asked of the host's name servers, from the host.
func TestForwardedQuestions(t *testing.T) {
	w := newWorld(t)
	upstream, err := net.ListenPacket("udp", "127.0.0.53:0")
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	go func() {
		b := make([]byte, maxQuestion)
		for {
			n, from, err := upstream.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response = true
			m.Additionals = nil
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
			}}
			if answer, err := m.Pack(); err == nil {
				_, _ = upstream.WriteTo(answer, from)
			}
		}
	}()
	w.create(t, Spec{Name: "app"})
	w.create(t, Spec{Name: "in", Internal: true})
	for name, want := range map[string]string{"app": "192.0.2.1", "in": ""} {
		a := w.attach(t, Request{ID: name, Network: joined(name), DNS: []netip.Addr{netip.MustParseAddr("127.0.0.53")}})
		for i := range a.names.servers {
			a.names.servers[i] = netip.AddrPortFrom(a.names.servers[i].Addr(), portOf(upstream.LocalAddr()))
		}
		serve(t, a)
		got, err := resolve(a, "udp", "example.org.")
		if !slices.Contains(append(got, ""), want) || (err == nil) != (want != "") {
			t.Errorf("from network %s: %v, %v", name, got, err)
		}
	}
}
