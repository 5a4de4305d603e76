package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// hold takes ports of the host for the container, and fills in those that were left
// open. A port is held by a socket, which tells others that it is in use. Where the
// kernel brings packets in, the socket never sees one.
func (a *Attachment) hold(ports []PortMapping) ([]PortMapping, error) {
	var out []PortMapping
	six := len(a.rec.Networks) > 0 && a.rec.Networks[0].IPv6.IsValid()
	for _, p := range ports {
		if p.ContainerPort == 0 || p.Protocol != TCP && p.Protocol != UDP {
			return nil, fmt.Errorf("port %s: want a port of the container and tcp or udp: %w", p, fs.ErrInvalid)
		}
		addrs := []netip.Addr{p.HostIP}
		if !p.HostIP.IsValid() {
			addrs[0] = netip.IPv4Unspecified()
			if six {
				addrs = append(addrs, netip.IPv6Unspecified())
			}
		} else if p.HostIP.Is6() && !six {
			return nil, fmt.Errorf("port %s: the container has no IPv6 address: %w", p, fs.ErrInvalid)
		}
		for _, addr := range addrs {
			f, port, err := bind(p.Protocol, netip.AddrPortFrom(addr, p.HostPort), a.n.owner)
			if errors.Is(err, unix.EADDRINUSE) {
				return nil, a.n.conflict(&Record{ID: a.rec.ID, Ports: []PortMapping{p}}, err)
			}
			if err != nil {
				return nil, bindError(p, err)
			}
			a.holders = append(a.holders, f)
			p.HostPort = port
		}
		out = append(out, p)
	}
	return out, nil
}

func bindError(p PortMapping, err error) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("publish port %s: net.ipv4.ip_unprivileged_port_start keeps this user from it: %w", p, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("publish port %s: the host does not have the address: %w: %w", p, fs.ErrInvalid, err)
	}
	return fmt.Errorf("publish port %s: %w", p, err)
}

// bind returns a socket with an address, and its port. A deaf one takes neither
// connections nor datagrams.
func bind(proto Protocol, at netip.AddrPort, deaf bool) (_ *os.File, _ uint16, err error) {
	kind := unix.SOCK_STREAM
	if proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	var sa unix.Sockaddr
	domain := unix.AF_INET
	if at.Addr().Is6() {
		sa, domain = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}, unix.AF_INET6
	} else {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	f := os.NewFile(uintptr(fd), "port")
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if deaf {
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, dropAll()); err != nil {
			return nil, 0, err
		}
	}
	if domain == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil, 0, err
		}
	}
	if proto == TCP {
		// Connections of who had the port before may linger. Then only a socket that listens
		// keeps others out.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return nil, 0, err
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return nil, 0, err
	}
	if proto == TCP {
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return nil, 0, err
		}
	}
	if at.Port() != 0 {
		return f, at.Port(), nil
	}
	got, err := unix.Getsockname(fd)
	if err != nil {
		return nil, 0, err
	}
	switch got := got.(type) {
	case *unix.SockaddrInet4:
		return f, uint16(got.Port), nil
	case *unix.SockaddrInet6:
		return f, uint16(got.Port), nil
	}
	return nil, 0, unix.EAFNOSUPPORT
}

// dropAll is a socket filter of one instruction: keep 0 bytes of a packet.
func dropAll() *unix.SockFprog {
	return &unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
}

// conflict names who has one of the ports of a record.
func (n *Networks) conflict(rec *Record, cause error) error {
	ids, err := n.names(dirContainers)
	if err != nil {
		return err
	}
	for _, id := range ids {
		other, err := n.record(id)
		if err != nil || id == rec.ID {
			continue
		}
		for _, p := range rec.Ports {
			for _, q := range other.Ports {
				if p.HostPort == q.HostPort && p.HostPort != 0 && p.Protocol == q.Protocol &&
					(!p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP == q.HostIP) {
					who := id
					if other.Name != "" {
						who = other.Name
					}
					return fmt.Errorf("publish port %s: container %s has published it: %w: %w", p, who, fs.ErrExist, cause)
				}
			}
		}
	}
	return fmt.Errorf("publish port %s: another program of the host has it: %w: %w", rec.Ports[0], fs.ErrExist, cause)
}
