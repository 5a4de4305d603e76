package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// routeConn speaks rtnetlink(7) with the kernel about one network namespace: that of the
// thread that opened it, whatever thread uses it.
type routeConn struct{ c *netlink.Conn }

func openRoute() (*routeConn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open socket to the kernel's network: %w", err)
	}
	return &routeConn{c}, nil
}

func (r *routeConn) Close() error { return r.c.Close() }

// do sends one message, of a fixed head and attributes, and returns the answers.
func (r *routeConn) do(kind uint16, flags netlink.HeaderFlags, head []byte, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	data := head
	if attrs != nil {
		e := netlink.NewAttributeEncoder()
		attrs(e)
		b, err := e.Encode()
		if err != nil {
			return nil, err
		}
		data = append(data, b...)
	}
	answers, err := r.c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   data,
	})
	var op *netlink.OpError
	if errors.As(err, &op) {
		if op.Message != "" {
			return nil, fmt.Errorf("%w (%s)", op.Err, op.Message)
		}
		return nil, op.Err
	}
	return answers, err
}

const (
	create = netlink.Acknowledge | netlink.Create | netlink.Excl
	change = netlink.Acknowledge
)

// ifInfo is struct ifinfomsg.
func ifInfo(index int, flags, mask uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], mask)
	return b
}

// link is an interface.
type link struct {
	index, master int
	name, kind    string
	mac           net.HardwareAddr
	mtu           int
	alias         string // text that says whose it is
	up            bool
}

func parseLink(data []byte) (link, error) {
	if len(data) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("message of an interface has %d bytes: %w", len(data), unix.EBADMSG)
	}
	l := link{
		index: int(int32(binary.NativeEndian.Uint32(data[4:]))),
		up:    binary.NativeEndian.Uint32(data[8:])&unix.IFF_UP != 0,
	}
	d, err := netlink.NewAttributeDecoder(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.name = d.String()
		case unix.IFLA_MASTER:
			l.master = int(d.Uint32())
		case unix.IFLA_ADDRESS:
			l.mac = d.Bytes()
		case unix.IFLA_IFALIAS:
			l.alias = d.String()
		case unix.IFLA_MTU:
			l.mtu = int(d.Uint32())
		case unix.IFLA_LINKINFO:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if n.Type() == unix.IFLA_INFO_KIND {
						l.kind = n.String()
					}
				}
				return nil
			})
		}
	}
	return l, d.Err()
}

// link returns the interface of a name; the error wraps ENODEV if there is none.
func (r *routeConn) link(name string) (link, error) {
	answers, err := r.do(unix.RTM_GETLINK, 0, ifInfo(0, 0, 0), func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, name)
	})
	if err == nil && len(answers) == 0 {
		err = unix.ENODEV
	}
	if err != nil {
		return link{}, fmt.Errorf("look for interface %s: %w", name, err)
	}
	return parseLink(answers[0].Data)
}

// links returns all interfaces.
func (r *routeConn) links() ([]link, error) {
	answers, err := r.do(unix.RTM_GETLINK, netlink.Dump, ifInfo(0, 0, 0), nil)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := make([]link, 0, len(answers))
	for _, a := range answers {
		l, err := parseLink(a.Data)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// addBridge makes a bridge, which is down.
func (r *routeConn) addBridge(name string, mac net.HardwareAddr, mtu int) error {
	_, err := r.do(unix.RTM_NEWLINK, create, ifInfo(0, 0, 0), func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, name)
		e.Uint32(unix.IFLA_MTU, uint32(mtu))
		e.Bytes(unix.IFLA_ADDRESS, mac)
		e.Nested(unix.IFLA_LINKINFO, func(e *netlink.AttributeEncoder) error {
			e.String(unix.IFLA_INFO_KIND, kindBridge)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return nil
}

// Kinds of interfaces.
const (
	kindBridge = "bridge"
	kindVeth   = "veth"
)

// switchOn makes an interface carry packets.
func (r *routeConn) switchOn(index int) error { return r.switchOnAs(index, "") }

// maxAlias is what the kernel keeps of an alias, in bytes (IFALIASZ less the zero).
const maxAlias = 255

// switchOnAs does so, and says whose the interface is unless alias is "".
func (r *routeConn) switchOnAs(index int, alias string) error {
	_, err := r.do(unix.RTM_NEWLINK, change, ifInfo(index, unix.IFF_UP, unix.IFF_UP), func(e *netlink.AttributeEncoder) {
		if alias != "" && len(alias) <= maxAlias {
			e.String(unix.IFLA_IFALIAS, alias)
		}
	})
	if err != nil {
		return fmt.Errorf("switch on interface: %w", err)
	}
	return nil
}

// deleteLink removes an interface; it is no error if there is none of that index.
func (r *routeConn) deleteLink(index int) error {
	_, err := r.do(unix.RTM_DELLINK, change, ifInfo(index, 0, 0), nil)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface: %w", err)
	}
	return nil
}

// veth is a pair of interfaces: name here, on the bridge of index master, and peer in
// the namespace of handle ns.
type veth struct {
	name, peer  string
	master, mtu int
	ns          int
	mac         net.HardwareAddr // of the peer
}

// vethInfoPeer is VETH_INFO_PEER of linux/veth.h.
const vethInfoPeer = 1

// addVeth makes a pair in one message. The end here is switched on; that of the peer
// cannot be yet, since the kernel makes it first, when it has nothing to be connected to.
func (r *routeConn) addVeth(v veth) error {
	_, err := r.do(unix.RTM_NEWLINK, create, ifInfo(0, unix.IFF_UP, unix.IFF_UP), func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, v.name)
		e.Uint32(unix.IFLA_MTU, uint32(v.mtu))
		if v.master != 0 {
			e.Uint32(unix.IFLA_MASTER, uint32(v.master))
		}
		e.Nested(unix.IFLA_LINKINFO, func(e *netlink.AttributeEncoder) error {
			e.String(unix.IFLA_INFO_KIND, kindVeth)
			e.Nested(unix.IFLA_INFO_DATA, func(e *netlink.AttributeEncoder) error {
				e.Do(vethInfoPeer, func() ([]byte, error) {
					p := netlink.NewAttributeEncoder()
					p.String(unix.IFLA_IFNAME, v.peer)
					p.Uint32(unix.IFLA_MTU, uint32(v.mtu))
					p.Bytes(unix.IFLA_ADDRESS, v.mac)
					p.Uint32(unix.IFLA_NET_NS_FD, uint32(v.ns))
					b, err := p.Encode()
					return append(ifInfo(0, 0, 0), b...), err
				})
				return nil
			})
			return nil
		})
	})
	if errors.Is(err, unix.EXFULL) {
		return fmt.Errorf("make interface %s: the bridge is full: Linux has 1024 ports for each: %w", v.name, err)
	}
	if err != nil {
		return fmt.Errorf("make interface %s: %w", v.name, err)
	}
	return nil
}

// turnBack lets a port of a bridge send a packet back where it came from.
func (r *routeConn) turnBack(index int) error {
	head := ifInfo(index, 0, 0)
	head[0] = unix.AF_BRIDGE
	_, err := r.do(unix.RTM_SETLINK, change, head, func(e *netlink.AttributeEncoder) {
		e.Nested(unix.IFLA_PROTINFO, func(e *netlink.AttributeEncoder) error {
			e.Uint8(portMode, 1)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("set up port of bridge: %w", err)
	}
	return nil
}

// portMode is IFLA_BRPORT_MODE of linux/if_link.h, by which hairpin mode is set.
const portMode = 4

// addAddress gives an interface an address with the length of its network.
func (r *routeConn) addAddress(index int, p netip.Prefix) error {
	head := make([]byte, unix.SizeofIfAddrmsg)
	head[0], head[1] = family(p.Addr()), byte(p.Bits())
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	_, err := r.do(unix.RTM_NEWADDR, create, head, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		e.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
		if p.Addr().Is6() {
			// The address is ours to give: no search for others that have it.
			e.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		}
	})
	if err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

// addDefaultRoute sends what has no route of its own to a gateway.
func (r *routeConn) addDefaultRoute(index int, gateway netip.Addr) error {
	head := make([]byte, unix.SizeofRtMsg)
	head[0] = family(gateway)
	head[4], head[5], head[6], head[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	_, err := r.do(unix.RTM_NEWROUTE, create, head, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		e.Uint32(unix.RTA_OIF, uint32(index))
	})
	if err != nil {
		return fmt.Errorf("add route by %s: %w", gateway, err)
	}
	return nil
}

// prefixed is a message with a prefix: an address or a route.
type prefixed struct {
	prefix netip.Prefix // of length 0 for default routes
	index  int          // of the interface of a route
}

// prefixes lists the addresses (RTM_GETADDR) or the routes (RTM_GETROUTE) of the host.
func (r *routeConn) prefixes(kind uint16) ([]prefixed, error) {
	// Both kinds have the family in front and the length of the prefix next.
	size, attr := unix.SizeofIfAddrmsg, uint16(unix.IFA_ADDRESS)
	if kind == unix.RTM_GETROUTE {
		size, attr = unix.SizeofRtMsg, unix.RTA_DST
	}
	answers, err := r.do(kind, netlink.Dump, make([]byte, size), nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses and routes: %w", err)
	}
	var out []prefixed
	for _, a := range answers {
		if len(a.Data) < size {
			continue
		}
		d, err := netlink.NewAttributeDecoder(a.Data[size:])
		if err != nil {
			return nil, err
		}
		addr := netip.IPv4Unspecified()
		if a.Data[0] == unix.AF_INET6 {
			addr = netip.IPv6Unspecified()
		}
		var p prefixed
		for d.Next() {
			switch {
			case d.Type() == attr:
				if v, ok := netip.AddrFromSlice(d.Bytes()); ok {
					addr = v
				}
			case kind == unix.RTM_GETROUTE && d.Type() == unix.RTA_OIF:
				p.index = int(d.Uint32())
			}
		}
		if err := d.Err(); err != nil {
			return nil, err
		}
		if p.prefix, err = addr.Prefix(int(a.Data[1])); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// taken returns the networks that the host has addresses in or routes to, default routes
// left out.
func (r *routeConn) taken() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, kind := range []uint16{unix.RTM_GETADDR, unix.RTM_GETROUTE} {
		list, err := r.prefixes(kind)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			if p.prefix.Bits() > 0 {
				out = append(out, p.prefix)
			}
		}
	}
	return out, nil
}

// uplinkMTU returns the smallest MTU of the interfaces of default routes, and at most
// that of Ethernet.
func (r *routeConn) uplinkMTU() (int, error) {
	routes, err := r.prefixes(unix.RTM_GETROUTE)
	if err != nil {
		return 0, err
	}
	links, err := r.links()
	if err != nil {
		return 0, err
	}
	mtu := defaultMTU
	for _, p := range routes {
		for _, l := range links {
			if p.prefix.Bits() == 0 && l.index == p.index && l.mtu >= minMTU {
				mtu = min(mtu, l.mtu)
			}
		}
	}
	return mtu, nil
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
