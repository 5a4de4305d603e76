package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the only table of the host that is read or written.
const tableName = "layerfs"

// Sets and maps of the table. All that ever changes are their elements.
const (
	setBridges  = "bridges"   // ifname: every bridge
	setOutward  = "outward"   // ifname: bridges whose members may reach other machines
	setSame     = "same"      // ifname . ifname: every bridge with itself
	mapPorts4   = "ports4"    // protocol . port . address → address . port
	mapPorts6   = "ports6"    // the same for IPv6
	mapAnyPort4 = "anyports4" // protocol . port → address . port
	mapAnyPort6 = "anyports6"
)

// firewall is the table in one network namespace.
type firewall struct {
	c     *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
}

// openFirewall opens a socket to the kernel's packet filter in the namespace of the
// calling thread.
func openFirewall() (*firewall, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, filterError("open socket to the kernel's packet filter", err)
	}
	f := &firewall{c: c, table: &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}}
	f.sets = f.makeSets()
	return f, nil
}

func (f *firewall) Close() error { return f.c.CloseLasting() }

// filterError explains the error of a kernel that lacks something.
func filterError(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: the kernel has no nf_tables (CONFIG_NF_TABLES_INET with NFT_NAT, NFT_MASQ, NFT_CT and NFT_FIB_INET), which bridge networks need; use --network host or none: %w: %w",
			what, errors.ErrUnsupported, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: this user may not administer the network: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (f *firewall) makeSets() map[string]*nftables.Set {
	set := func(name string, key nftables.SetDatatype, concat bool) *nftables.Set {
		// The byte order is for those who list the table.
		return &nftables.Set{Table: f.table, Name: name, KeyType: key, Concatenation: concat, KeyByteOrder: binaryutil.NativeEndian}
	}
	mapping := func(name string, addr nftables.SetDatatype, key ...nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{
			Table: f.table, Name: name, IsMap: true, Concatenation: true,
			KeyType: nftables.MustConcatSetType(key...), DataType: nftables.MustConcatSetType(addr, nftables.TypeInetService),
		}
	}
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	ip4, ip6, name := nftables.TypeIPAddr, nftables.TypeIP6Addr, nftables.TypeIFName
	sets := make(map[string]*nftables.Set)
	for _, s := range []*nftables.Set{
		set(setBridges, name, false),
		set(setOutward, name, false),
		set(setSame, nftables.MustConcatSetType(name, name), true),
		mapping(mapPorts4, ip4, proto, port, ip4),
		mapping(mapPorts6, ip6, proto, port, ip6),
		mapping(mapAnyPort4, ip4, proto, port),
		mapping(mapAnyPort6, ip6, proto, port),
	} {
		sets[s.Name] = s
	}
	return sets
}

// exists says whether the table is there.
func (f *firewall) exists() (bool, error) {
	_, err := f.c.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, filterError("look for table "+tableName, err)
	}
	return true, nil
}

// elements returns the content of a set, which is empty without the table.
func (f *firewall) elements(set string) ([]nftables.SetElement, error) {
	// The library's own error for a set that is not there cannot be told from others.
	if there, err := f.exists(); err != nil || !there {
		return nil, err
	}
	list, err := f.c.GetSetElements(f.sets[set])
	if err != nil {
		return nil, filterError("list set "+set+" of table "+tableName, err)
	}
	return list, nil
}

// install makes the table with its chains and rules in one transaction: all or nothing.
func (f *firewall) install() error {
	f.c.CreateTable(f.table)
	for _, name := range []string{setBridges, setOutward, setSame, mapPorts4, mapPorts6, mapAnyPort4, mapAnyPort6} {
		if err := f.c.AddSet(f.sets[name], nil); err != nil {
			return err
		}
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return f.c.AddChain(&nftables.Chain{Table: f.table, Name: name, Type: kind, Hooknum: hook, Priority: prio})
	}
	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	publish := f.c.AddChain(&nftables.Chain{Table: f.table, Name: "publish"})
	prerouting := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	output := base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	postrouting := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)

	add := func(c *nftables.Chain, parts ...[]expr.Any) {
		var exprs []expr.Any
		for _, p := range parts {
			exprs = append(exprs, p...)
		}
		f.c.AddRule(&nftables.Rule{Table: f.table, Chain: c, Exprs: exprs})
	}
	in, out := expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	accept, drop := verdict(expr.VerdictAccept, ""), verdict(expr.VerdictDrop, "")

	// Only this keeps members from the host's 127.0.0.1 while route_localnet is set.
	const saddr4, daddr4 = 12, 16 // offsets in the header of IPv4
	add(guard, f.member(in, setBridges), loopback(daddr4), drop)
	add(guard, f.member(in, setBridges), loopback(saddr4), drop)

	add(forward, f.sameBridge(), accept)
	add(forward, f.member(out, setBridges), connStatus(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	add(forward, f.member(out, setBridges), connStatus(expr.CtKeySTATUS, statusDestNAT), accept)
	// Neither another network nor another machine reaches what is not published.
	add(forward, f.member(out, setBridges), drop)
	add(forward, f.member(in, setOutward), accept)
	add(forward, f.member(in, setBridges), connStatus(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	add(forward, f.member(in, setBridges), drop)

	add(prerouting, toHost(), verdict(expr.VerdictJump, publish.Name))
	add(output, toHost(), verdict(expr.VerdictJump, publish.Name))
	add(publish, f.translate(unix.NFPROTO_IPV4, mapPorts4, true))
	add(publish, f.translate(unix.NFPROTO_IPV4, mapAnyPort4, false))
	add(publish, f.translate(unix.NFPROTO_IPV6, mapPorts6, true))
	add(publish, f.translate(unix.NFPROTO_IPV6, mapAnyPort6, false))

	masquerade := []expr.Any{&expr.Masq{}}
	// Answers must come back through the host where they could take a shorter way: to the
	// host itself, whose 127.0.0.1 has no meaning elsewhere, and to a member that used a
	// published port of the same network. Packets of both have no input interface here,
	// the latter if bridged packets pass the packet filter (bridge-nf-call-iptables).
	add(postrouting, f.member(out, setBridges), noInput(), connStatus(expr.CtKeySTATUS, statusDestNAT), masquerade)
	add(postrouting, f.sameBridge(), connStatus(expr.CtKeySTATUS, statusDestNAT), masquerade)
	add(postrouting, f.member(in, setOutward), f.notMember(out, setBridges), masquerade)
	if err := f.c.Flush(); err != nil {
		return filterError("make table "+tableName, err)
	}
	return nil
}

// remove removes the table and all in it.
func (f *firewall) remove() error {
	f.c.DelTable(f.table)
	if err := f.c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return filterError("remove table "+tableName, err)
	}
	return nil
}

// statusDestNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h: a connection
// whose destination was translated, so one to a published port.
const statusDestNAT = 1 << 5

const register = 1 // NFT_REG_1, which is also the 32-bit registers 8 to 11

func reg32(n int) uint32 { return uint32(unix.NFT_REG32_00 + n) }

func verdict(k expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: k, Chain: chain}}
}

func (f *firewall) member(key expr.MetaKey, set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set, SetID: f.sets[set].ID},
	}
}

func (f *firewall) notMember(key expr.MetaKey, set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set, SetID: f.sets[set].ID, Invert: true},
	}
}

// sameBridge matches what comes from a bridge and goes back to it.
func (f *firewall) sameBridge() []expr.Any {
	const words = unix.IFNAMSIZ / 4
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg32(0)},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg32(words)},
		&expr.Lookup{SourceRegister: reg32(0), SetName: setSame, SetID: f.sets[setSame].ID},
	}
}

// noInput matches packets that came in by no interface.
func noInput() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: make([]byte, 4)},
	}
}

// loopback matches packets of IPv4 with an address of 127.0.0.0/8 at an offset.
func loopback(offset uint32) []expr.Any {
	return append(isFamily(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{127}})
}

func isFamily(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{proto}},
	}
}

// connStatus matches connections of which one of the bits is set.
func connStatus(key expr.CtKey, bits uint32) []expr.Any {
	mask := binary.NativeEndian.AppendUint32(nil, bits)
	zero := make([]byte, len(mask))
	return []expr.Any{
		&expr.Ct{Key: key, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: zero},
	}
}

// toHost matches packets to an address of the host.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// translate sends a packet where the map says: by protocol and port, and with addressed
// by the host's address too.
func (f *firewall) translate(proto byte, mapping string, addressed bool) []expr.Any {
	exprs := append(isFamily(proto),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32(0)},
		&expr.Payload{DestRegister: reg32(1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	)
	offset, size := uint32(16), uint32(4) // of the destination in the header
	if proto == unix.NFPROTO_IPV6 {
		offset, size = 24, 16
	}
	if addressed {
		exprs = append(exprs, &expr.Payload{DestRegister: reg32(2), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	}
	return append(exprs,
		&expr.Lookup{SourceRegister: reg32(0), DestRegister: reg32(0), IsDestRegSet: true, SetName: mapping, SetID: f.sets[mapping].ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(proto), RegAddrMin: reg32(0), RegProtoMin: reg32(int(size / 4))})
}

// addBridge makes a bridge known to the rules.
func (f *firewall) addBridge(name string, outward bool) error {
	return f.setBridge(name, outward, true)
}

// removeBridge is the reverse; it is no error if the bridge is not known.
func (f *firewall) removeBridge(name string) error { return f.setBridge(name, true, false) }

func (f *firewall) setBridge(name string, outward, there bool) error {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	sets := map[string][]byte{setBridges: key, setSame: append(append([]byte(nil), key...), key...)}
	if outward {
		sets[setOutward] = key
	}
	for set, key := range sets {
		e := []nftables.SetElement{{Key: key}}
		if there {
			if err := f.c.SetAddElements(f.sets[set], e); err != nil {
				return err
			}
			continue
		}
		// One by one: an element that is missing makes a transaction fail.
		if err := f.c.SetDeleteElements(f.sets[set], e); err != nil {
			return err
		}
		if err := f.c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return filterError("forget bridge "+name, err)
		}
	}
	if !there {
		return nil
	}
	if err := f.c.Flush(); err != nil {
		return filterError("make bridge "+name+" known to the packet filter", err)
	}
	return nil
}

// target is where a published port leads.
type target struct {
	mapping PortMapping // HostPort is not 0
	addr    netip.Addr  // of the container
}

// element returns the map and the element of a published port. The owner is shown to
// people who list the table.
func (t target) element(owner string) (string, nftables.SetElement) {
	number := byte(unix.IPPROTO_TCP)
	if t.mapping.Protocol == UDP {
		number = unix.IPPROTO_UDP
	}
	port := func(b []byte, p uint16) []byte { return append(binary.BigEndian.AppendUint16(b, p), 0, 0) }
	key := port([]byte{number, 0, 0, 0}, t.mapping.HostPort)
	name := mapAnyPort4
	if t.addr.Is6() {
		name = mapAnyPort6
	}
	if ip := t.mapping.HostIP; ip.IsValid() && !ip.IsUnspecified() {
		key = append(key, ip.AsSlice()...)
		name = mapPorts4
		if t.addr.Is6() {
			name = mapPorts6
		}
	}
	return name, nftables.SetElement{Key: key, Val: port(t.addr.AsSlice(), t.mapping.ContainerPort), Comment: owner}
}

// publish adds all targets in one transaction. An error that wraps EEXIST says that one
// of the ports is published already.
func (f *firewall) publish(owner string, targets []target) error {
	for set, elements := range group(owner, targets) {
		if err := f.c.SetAddElements(f.sets[set], elements); err != nil {
			return err
		}
	}
	if err := f.c.Flush(); err != nil {
		return filterError("publish ports", err)
	}
	return nil
}

// withdraw removes the owner's targets; those that are not there, or another's by now,
// are left as they are.
func (f *firewall) withdraw(owner string, targets []target) error {
	for set, elements := range group(owner, targets) {
		have, err := f.elements(set)
		if err != nil {
			return err
		}
		ours := make(map[string]bool)
		for _, e := range have {
			if e.Comment == owner {
				ours[string(e.Key)] = true
			}
		}
		elements = slices.DeleteFunc(elements, func(e nftables.SetElement) bool { return !ours[string(e.Key)] })
		if len(elements) == 0 {
			continue
		}
		if err := f.c.SetDeleteElements(f.sets[set], elements); err != nil {
			return err
		}
	}
	if err := f.c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return filterError("withdraw ports", err)
	}
	return nil
}

func group(owner string, targets []target) map[string][]nftables.SetElement {
	groups := make(map[string][]nftables.SetElement)
	for _, t := range targets {
		set, e := t.element(owner)
		groups[set] = append(groups[set], e)
	}
	return groups
}

// redirectNames makes the container's questions for names reach the responder, in the
// namespace of the calling thread.
func redirectNames(r *responder) error {
	c, err := nftables.New()
	if err != nil {
		return filterError("open socket to the kernel's packet filter", err)
	}
	table := c.CreateTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	const daddr, addrLen = 16, 4 // the destination in the header of IPv4
	addr := resolverAddr().AsSlice()
	for _, to := range []struct {
		proto byte
		port  uint16
	}{
		{unix.IPPROTO_UDP, portOf(r.udp.LocalAddr())},
		{unix.IPPROTO_TCP, portOf(r.tcp.Addr())},
	} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: daddr, Len: addrLen},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: addr},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{to.proto}},
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, portDNS)},
			&expr.Immediate{Register: reg32(0), Data: addr},
			&expr.Immediate{Register: reg32(4), Data: binary.BigEndian.AppendUint16(nil, to.port)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg32(0), RegProtoMin: reg32(4)},
		}})
	}
	if err := c.Flush(); err != nil {
		return filterError("redirect questions for names", err)
	}
	return nil
}

// portOf returns the port of a socket's address.
func portOf(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Port()
	case *net.TCPAddr:
		return a.AddrPort().Port()
	}
	return 0
}
