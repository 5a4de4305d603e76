package network

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is a transport protocol whose ports can be published.
type Protocol string

// The protocols.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// PortMapping publishes a port of a container on the host.
type PortMapping struct {
	// HostIP is the address of the host on which the port is published; the zero Addr is
	// all of them.
	HostIP netip.Addr `json:"host_ip,omitzero"`
	// HostPort is the port of the host; 0 takes any that is free.
	HostPort      uint16   `json:"host_port"`
	ContainerPort uint16   `json:"container_port"`
	Protocol      Protocol `json:"protocol"`
}

// String returns the mapping as [ParsePorts] takes it.
func (p PortMapping) String() string {
	var b strings.Builder
	if p.HostIP.Is6() {
		b.WriteString("[" + p.HostIP.String() + "]:")
	} else if p.HostIP.IsValid() {
		b.WriteString(p.HostIP.String() + ":")
	}
	if p.HostPort != 0 {
		b.WriteString(strconv.Itoa(int(p.HostPort)))
	}
	if b.Len() > 0 && p.HostPort != 0 || p.HostIP.IsValid() {
		b.WriteByte(':')
	}
	b.WriteString(strconv.Itoa(int(p.ContainerPort)) + "/" + string(p.Protocol))
	return b.String()
}

// maxPorts bounds the published ports of one container: each is held by a socket of the
// process that keeps the container.
const maxPorts = 4096

// ParsePorts reads what Docker's --publish takes: [[IP:][HOSTPORT]:]PORT[/tcp|/udp],
// where a port may be a range "8000-8010". Without a host port a free one is taken for
// each; ranges on both sides have the same length, but a range of the host for a single
// port of the container is refused. An IPv6 address stands in brackets.
func ParsePorts(s string) ([]PortMapping, error) {
	bad := func(format string, args ...any) ([]PortMapping, error) {
		return nil, fmt.Errorf("port %q: %s: %w", s, fmt.Sprintf(format, args...), fs.ErrInvalid)
	}
	rest, proto := s, TCP
	if i := strings.LastIndexByte(rest, '/'); i >= 0 {
		proto, rest = Protocol(strings.ToLower(rest[i+1:])), rest[:i]
		if proto != TCP && proto != UDP {
			return bad("protocol %q is neither tcp nor udp", proto)
		}
	}
	rest, container := cutLast(rest)
	var host, ip string
	bracket := strings.HasPrefix(rest, "[")
	if bracket {
		var ok bool
		if ip, host, ok = strings.Cut(rest[1:], "]:"); !ok {
			return bad("want [IP]:[HOSTPORT]:PORT")
		}
	} else {
		ip, host = cutLast(rest)
	}
	var p PortMapping
	if ip != "" || bracket {
		var err error
		if p.HostIP, err = netip.ParseAddr(ip); err != nil || p.HostIP.Is6() != bracket || p.HostIP.Zone() != "" || p.HostIP.Is4In6() {
			return bad("%q is no address of the host", ip)
		}
		if p.HostIP.IsUnspecified() && p.HostIP.Is4() {
			p.HostIP = netip.Addr{}
		}
	}
	first, last, ok := portRange(container)
	if !ok {
		return bad("%q is no port or range of ports of the container", container)
	}
	hostFirst, hostLast := 0, 0
	if host != "" {
		if hostFirst, hostLast, ok = portRange(host); !ok {
			return bad("%q is no port or range of ports of the host", host)
		}
		if hostLast-hostFirst != last-first {
			return bad("the ranges have %d and %d ports", hostLast-hostFirst+1, last-first+1)
		}
	}
	if last-first >= maxPorts {
		return bad("a range of %d ports; at most %d", last-first+1, maxPorts)
	}
	p.Protocol = proto
	out := make([]PortMapping, 0, last-first+1)
	for i := range last - first + 1 {
		p.ContainerPort = uint16(first + i)
		if hostFirst != 0 {
			p.HostPort = uint16(hostFirst + i)
		}
		out = append(out, p)
	}
	return out, nil
}

// cutLast cuts at the last colon; without one all is the second part.
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, ':')
	return s[:max(i, 0)], s[i+1:]
}

// portRange reads "N" or "N-M" with 1 ≤ N ≤ M ≤ 65535.
func portRange(s string) (first, last int, ok bool) {
	a, b, both := strings.Cut(s, "-")
	if !both {
		b = a
	}
	first, ok1 := portNumber(a)
	last, ok2 := portNumber(b)
	return first, last, ok1 && ok2 && first <= last
}

func portNumber(s string) (int, bool) {
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0
}
