package network

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net/netip"
)

// Subnets are taken from one corner of the private addresses that neither Docker
// (172.17.0.0/12, 192.168.0.0/16), podman (10.88.0.0/15) nor most homes and offices use.
// A /20 has four times as many addresses as a bridge of Linux has ports.
const (
	poolBits   = 12
	subnetBits = 20

	maxSubnetBits = 29 // length of the prefix of the smallest IPv4 subnet: 5 containers
	maxPrefix6    = 96 // bits; as many single addresses as IPv4 has in all
)

func pool() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 208, 0, 0}), poolBits) }

// chooseSubnets fills in the subnets and gateways of a new network.
func (net *Network) chooseSubnets(s Spec, r *routeConn, others []*Network) error {
	taken, err := r.taken()
	if err != nil {
		return err
	}
	for _, o := range others {
		taken = append(taken, o.IPv4, o.IPv6)
	}
	net.IPv4 = s.IPv4.Masked()
	switch {
	case !s.IPv4.IsValid():
		if net.IPv4, err = net.freeSubnet(taken); err != nil {
			return err
		}
	case !s.IPv4.Addr().Is4() || s.IPv4.Bits() > maxSubnetBits || !usable(net.IPv4):
		return fmt.Errorf("subnet %s: want one of IPv4 for single hosts with a prefix of at most %d bits: %w", s.IPv4, maxSubnetBits, fs.ErrInvalid)
	default:
		if err := clash(net.IPv4, taken); err != nil {
			return err
		}
	}
	if net.Gateway4, err = gateway(net.IPv4, s.Gateway4); err != nil {
		return err
	}
	if !s.EnableIPv6 && !s.IPv6.IsValid() {
		if s.Gateway6.IsValid() {
			return fmt.Errorf("gateway %s: the network has no IPv6: %w", s.Gateway6, fs.ErrInvalid)
		}
		return nil
	}
	net.IPv6 = s.IPv6.Masked()
	switch {
	case !s.IPv6.IsValid():
		net.IPv6 = uniqueLocal()
	case !s.IPv6.Addr().Is6() || s.IPv6.Addr().Is4In6() || s.IPv6.Bits() > maxPrefix6 || !usable(net.IPv6):
		return fmt.Errorf("subnet %s: want one of IPv6 for single hosts with a prefix of at most %d bits: %w", s.IPv6, maxPrefix6, fs.ErrInvalid)
	default:
		if err := clash(net.IPv6, taken); err != nil {
			return err
		}
	}
	net.Gateway6, err = gateway(net.IPv6, s.Gateway6)
	return err
}

func usable(p netip.Prefix) bool {
	const shortest = 8 // bits; 0.0.0.0/0 is no network
	a := p.Addr()
	return p.Bits() >= shortest && !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLinkLocalUnicast()
}

// freeSubnet looks for a subnet of the pool from a place on that the network's id says: the
// host knows of a subnet only when its bridge is there, and two stores that make networks
// at the same time must not take the same.
func (net *Network) freeSubnet(taken []netip.Prefix) (netip.Prefix, error) {
	const all = 1 << (subnetBits - poolBits)
	pool := pool()
	base := pool.Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	start := uint32(net.mac()[1]) // of the id's bytes
	for i := range uint32(all) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+(start+i)%all<<(32-subnetBits))
		p := netip.PrefixFrom(netip.AddrFrom4(b), subnetBits)
		if clash(p, taken) == nil {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no subnet of %s is free; name one: %w", pool, fs.ErrExist)
}

func clash(p netip.Prefix, taken []netip.Prefix) error {
	for _, t := range taken {
		if t.IsValid() && p.Overlaps(t) {
			return fmt.Errorf("subnet %s: overlaps with %s, which a network or a route of the host has: %w", p, t, fs.ErrExist)
		}
	}
	return nil
}

// uniqueLocal returns a subnet of the private addresses of IPv6 (RFC 4193), whose 40
// random bits make a clash improbable.
func uniqueLocal() netip.Prefix {
	const bits = 64
	var b [16]byte
	rand.Read(b[1:6]) // never fails
	b[0] = 0xfd
	return netip.PrefixFrom(netip.AddrFrom16(b), bits)
}

// gateway returns the host's address in a subnet.
func gateway(p netip.Prefix, wanted netip.Addr) (netip.Addr, error) {
	if !wanted.IsValid() {
		return p.Addr().Next(), nil
	}
	if !p.Contains(wanted) || wanted == p.Addr() || wanted == broadcast(p) {
		return netip.Addr{}, fmt.Errorf("gateway %s: is no address of subnet %s: %w", wanted, p, fs.ErrInvalid)
	}
	return wanted, nil
}

// broadcast returns the last address of an IPv4 subnet, and the zero Addr for IPv6.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	return hostAddr(p, uint32(1)<<(32-p.Bits())-1)
}

// hostAddr returns the address of a subnet with a number; the subnet has more than that.
func hostAddr(p netip.Prefix, number uint32) netip.Addr {
	b := p.Addr().As16()
	tail := b[12:]
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)+number)
	a := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return a.Unmap()
	}
	return a
}
