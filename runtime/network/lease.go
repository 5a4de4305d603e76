package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"strconv"
)

// lease takes addresses in a network for a container: those that are asked for, or the
// next free ones.
func (n *Networks) lease(net *Network, e Endpoint, id string) (Membership, error) {
	m := Membership{Network: net.Name}
	if e.IPv6.IsValid() && !net.IPv6.IsValid() {
		return m, fmt.Errorf("address %s: network %q has no IPv6: %w", e.IPv6, net.Name, fs.ErrInvalid)
	}
	if !net.Internal {
		m.Gateway4, m.Gateway6 = net.Gateway4, net.Gateway6
	}
	var err error
	if e.IPv4.IsValid() {
		err = n.leaseThat(net, net.IPv4, e.IPv4, id)
		m.IPv4 = netip.PrefixFrom(e.IPv4, net.IPv4.Bits())
	} else {
		m.IPv4, err = n.leaseNext(net, id)
	}
	if err != nil {
		return m, err
	}
	six := e.IPv6
	if !six.IsValid() && net.IPv6.IsValid() {
		six = hostAddr(net.IPv6, hostNumber(m.IPv4.Addr(), net.IPv4))
	}
	if six.IsValid() {
		if err := n.leaseThat(net, net.IPv6, six, id); err != nil {
			return m, errors.Join(err, n.release(m, id))
		}
		m.IPv6 = netip.PrefixFrom(six, net.IPv6.Bits())
	}
	mac := e.MAC
	if mac == nil {
		mac = macFor(m.IPv4.Addr())
	}
	m.MAC = mac.String()
	return m, nil
}

// macFor makes an Ethernet address of an IPv4 address: neighbours that remember the one
// of a container that had the address before are not misled.
func macFor(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return append(net.HardwareAddr{0x02, 0x42}, b[:]...)
}

func hostNumber(a netip.Addr, p netip.Prefix) uint32 {
	x, y := a.As4(), p.Addr().As4()
	return binary.BigEndian.Uint32(x[:]) - binary.BigEndian.Uint32(y[:])
}

func leasePath(network string, a netip.Addr) string {
	return path.Join(dirNetworks, network, dirLeases, a.String())
}

// leaseThat takes a certain address.
func (n *Networks) leaseThat(net *Network, p netip.Prefix, a netip.Addr, id string) error {
	if !p.Contains(a) || a == p.Addr() || a == broadcast(p) || a == net.Gateway4 || a == net.Gateway6 {
		return fmt.Errorf("address %s: not for containers of network %q, which has %s: %w", a, net.Name, p, fs.ErrInvalid)
	}
	took, err := n.take(net, a, id)
	if err == nil && !took {
		holder, rerr := n.read(leasePath(net.Name, a), maxContainerID)
		if rerr != nil {
			holder = []byte("another")
		}
		return fmt.Errorf("address %s: container %s has it: %w", a, holder, fs.ErrExist)
	}
	return err
}

// leaseNext takes the next free address after the one taken last, so that an address
// rests for as long as possible before it gets a new holder.
func (n *Networks) leaseNext(net *Network, id string) (netip.Prefix, error) {
	size := uint32(1) << (32 - net.IPv4.Bits())
	first := uint32(1)
	// Two processes may read the same number: one of them then finds the address taken.
	if data, err := n.read(path.Join(dirNetworks, net.Name, nextName), 16); err == nil {
		if v, err := strconv.ParseUint(string(data), 10, 32); err == nil && uint32(v) < size {
			first = uint32(v)
		}
	}
	for i := range size {
		number := (first + i) % size
		a := hostAddr(net.IPv4, number)
		if number == 0 || number == size-1 || a == net.Gateway4 {
			continue
		}
		took, err := n.take(net, a, id)
		if err != nil {
			return netip.Prefix{}, err
		}
		if took {
			// Where the next search begins is a hint: it need not survive, nor be exact.
			next := strconv.FormatUint(uint64(number)+1, 10)
			f, err := n.root.OpenFile(path.Join(dirNetworks, net.Name, nextName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err == nil {
				_, err = f.WriteString(next)
				err = errors.Join(err, f.Close())
			}
			return netip.PrefixFrom(a, net.IPv4.Bits()), err
		}
	}
	return netip.Prefix{}, fmt.Errorf("network %q: all addresses of %s are in use; gc frees those of containers that have gone: %w", net.Name, net.IPv4, fs.ErrExist)
}

// take makes the file of an address, unless it is there.
func (n *Networks) take(net *Network, a netip.Addr, id string) (bool, error) {
	f, err := n.root.OpenFile(leasePath(net.Name, a), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take address %s: %w", a, err)
	}
	_, err = f.WriteString(id)
	if err := errors.Join(err, f.Close()); err != nil {
		return false, errors.Join(fmt.Errorf("take address %s: %w", a, err), n.root.Remove(leasePath(net.Name, a)))
	}
	return true, nil
}

// release gives the addresses of a membership back, if they are the container's still.
func (n *Networks) release(m Membership, id string) error {
	var errs []error
	for _, p := range []netip.Prefix{m.IPv4, m.IPv6} {
		if !p.IsValid() {
			continue
		}
		name := leasePath(m.Network, p.Addr())
		holder, err := n.read(name, maxContainerID)
		if err == nil && string(holder) == id {
			err = n.root.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("release address %s: %w", p.Addr(), err))
		}
	}
	return errors.Join(errs...)
}
