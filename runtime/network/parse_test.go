package network

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for s, want := range map[string]string{
		"80":                    "80/tcp",
		"80/UDP":                "80/udp",
		"8080:80":               "8080:80/tcp",
		":80":                   "80/tcp",
		"0.0.0.0:8080:80":       "8080:80/tcp",
		"127.0.0.1:8080:80/udp": "127.0.0.1:8080:80/udp",
		"127.0.0.1::80":         "127.0.0.1::80/tcp",
		"[::1]:8080:80":         "[::1]:8080:80/tcp",
		"[::]::80":              "[::]::80/tcp",
		"8000-8001:80-81":       "8000:80/tcp 8001:81/tcp",
		"80-81":                 "80/tcp 81/tcp",
		"1-4096":                "",
		"65535:65535":           "65535:65535/tcp",
	} {
		got, err := ParsePorts(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		var all []string
		for _, p := range got {
			all = append(all, p.String())
		}
		if text := strings.Join(all, " "); want != "" && text != want {
			t.Errorf("%q is %q, want %q", s, text, want)
		}
	}
	for _, s := range []string{
		"", ":", "0", "65536", "-1", "80-", "-80", "81-80", "x", "80/sctp", "80/", "8000-8002:80-81", "8000-8001:80",
		"1.2.3:80:80", "::1:80:80", "[::1:80:80", "[1.2.3.4]:80:80", "[fe80::1%eth0]:80:80", "[::ffff:1.2.3.4]:80:80",
		"1-4097", "+80", "80:80:80:80", "host:80:80", "0:80", " 80",
	} {
		if got, err := ParsePorts(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q is %v, %v", s, got, err)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"80", "8080:80/udp", "127.0.0.1::80-90", "[::1]:1-2:3-4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := ParsePorts(s)
		if err != nil {
			return
		}
		if len(ports) == 0 || len(ports) > maxPorts {
			t.Fatalf("%q is %d ports", s, len(ports))
		}
		for _, p := range ports {
			again, err := ParsePorts(p.String())
			if err != nil || len(again) != 1 || again[0] != p {
				t.Fatalf("%q has %v, which is %v, %v", s, p, again, err)
			}
		}
	})
}

func TestParseNetwork(t *testing.T) {
	c, err := ParseNetwork([]string{"name=app,alias=DB,alias=store,ip=192.0.2.9,ip6=fd00::9,mac-address=02:00:00:00:00:01", "other"})
	if err != nil || c.Mode != ModeBridge || len(c.Endpoints) != 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	if e := c.Endpoints[0]; e.Network != "app" || strings.Join(e.Aliases, " ") != "db store" || e.IPv4 != netip.MustParseAddr("192.0.2.9") ||
		e.IPv6 != netip.MustParseAddr("fd00::9") || e.MAC.String() != "02:00:00:00:00:01" {
		t.Errorf("%+v", e)
	}
	for s, want := range map[string]Choice{
		"": {}, "default": {}, "none": {Mode: ModeNone}, "host": {Mode: ModeHost},
		"container:db_1": {Mode: ModeContainer, Container: "db_1"},
	} {
		got, err := ParseNetwork([]string{s})
		if err != nil || got.Mode != want.Mode || got.Container != want.Container {
			t.Errorf("%q is %+v, %v", s, got, err)
		}
	}
	many := make([]string, maxEndpoints+1)
	for i := range many {
		many[i] = "net" + strings.Repeat("x", i)
	}
	if _, err := ParseNetwork(many[:maxEndpoints]); err != nil {
		t.Errorf("%d networks: %v", maxEndpoints, err)
	}
	for _, list := range [][]string{
		{"../../etc"}, {"a/b"}, {"-a"}, {"name="}, {"alias=x"}, {"name=a,ip=fd00::1"}, {"name=a,ip6=192.0.2.1"}, {"name=a,ip=::ffff:192.0.2.1"},
		{"name=a,mac-address=01:00:00:00:00:00"}, {"name=a,mac-address=x"}, {"name=a,unknown=1"}, {"name=a,alias=a b"}, {"name=a,alias=" + strings.Repeat("x", 64)},
		{"container:"}, {"container:../x"}, {"a", "a"}, {"host", "a"}, {"a", "none"}, {"name=a" + strings.Repeat(",alias=x", maxAliases+1)}, many,
	} {
		if got, err := ParseNetwork(list); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.60q is %+v, %v", list, got, err)
		}
	}
}

func FuzzParseNetwork(f *testing.F) {
	for _, s := range []string{"host", "container:x", "name=a,alias=b,ip=192.0.2.1", "app"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseNetwork([]string{s})
		if err != nil {
			return
		}
		r := Request{ID: "x", Network: c}
		if c.Mode == ModeContainer {
			return
		}
		if err := r.check(); err != nil {
			t.Fatalf("%q is %+v, which is refused: %v", s, c, err)
		}
	})
}

func TestParseHost(t *testing.T) {
	for s, want := range map[string]string{
		"a:192.0.2.1": "192.0.2.1", "a=192.0.2.1": "192.0.2.1", "a:::1": "::1", "a=[::1]": "::1", "a:host-gateway": "invalid IP",
	} {
		if h, err := ParseHost(s); err != nil || h.Name != "a" || h.Addr.String() != want {
			t.Errorf("%q is %+v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "a", ":1.2.3.4", "a:b", "a b:1.2.3.4", "a\n:1.2.3.4", "a:fe80::1%eth0"} {
		if h, err := ParseHost(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q is %+v, %v", s, h, err)
		}
	}
}

// What a request holds is checked once more where it is used.
func TestRequestsRefused(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", maxContainerID+1)
	for _, r := range []Request{
		{}, {ID: "../x"}, {ID: "."}, {ID: long}, {ID: "x", Name: "a b"}, {ID: "x", Hostname: "a\nb"},
		{ID: "x", Hosts: make([]Host, maxHosts+1)}, {ID: "x", Hosts: []Host{{Name: "a\t1.2.3.4 b"}}},
		{ID: "x", DNSSearch: []string{"a\nnameserver 1.2.3.4"}}, {ID: "x", DNSOptions: []string{"a b"}}, {ID: "x", DNS: make([]netip.Addr, maxServers+1)},
		{ID: "x", Links: []Link{{"../y", "a"}}}, {ID: "x", Links: []Link{{"y", ""}}},
		{ID: "x", Ports: make([]PortMapping, maxPorts+1)}, {ID: "x", Ports: []PortMapping{{}}}, {ID: "x", Ports: []PortMapping{{ContainerPort: 1, Protocol: "sctp"}}},
		{ID: "x", Network: joined("../bridge")}, {ID: "x", Network: joined()}, {ID: "x", Network: joined("bridge", "bridge")}, {ID: "x", Network: Choice{Mode: ModeContainer}},
	} {
		if _, err := w.Attach(t.Context(), r); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.80v: %v", r, err)
		}
	}
}

func FuzzParseResolv(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nsearch a b\noptions ndots:2\n; x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := parseResolv(data)
		again := parseResolv(r.format())
		if len(r.servers) > maxServers || len(r.search) > maxServers || len(r.options) > maxServers || len(again.servers) != len(r.servers) {
			t.Fatalf("%q is %+v, which is %+v", data, r, again)
		}
	})
}
