package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
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
