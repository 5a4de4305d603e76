package network

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// host is the network namespace in which bridges and rules are.
type host struct {
	at    place
	route *routeConn
	fw    *firewall
}

func openHost(at place) (*host, error) {
	h := &host{at: at}
	err := h.inside(func() (err error) {
		if h.route, err = openRoute(); err != nil {
			return err
		}
		if h.fw, err = openFirewall(); err != nil {
			return errors.Join(err, h.route.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// inside calls f on a thread in the namespace.
func (h *host) inside(f func() error) error {
	if h.at == nil {
		return f()
	}
	return inNamespace(h.at, f)
}

func (h *host) Close() error { return errors.Join(h.fw.Close(), h.route.Close()) }

// mac is the Ethernet address of the network's bridge. It says whose the bridge is, from
// its first moment on, since an interface can be made with an address but not with a
// comment; and it does not change with the members, as that of a bridge else does.
func (net *Network) mac() net.HardwareAddr {
	id, err := hex.DecodeString(net.ID)
	const local, rest = 0x02, 5
	mac := []byte{local}
	if err != nil || len(id) < rest {
		return append(mac, make([]byte, rest)...)
	}
	return append(mac, id[:rest]...)
}

// bridge makes sure that the network's bridge is there and known to the rules, and
// returns its index.
func (n *Networks) bridge(ctx context.Context, h *host, net *Network) (int, error) {
	if index, err := h.ready(net); index != 0 || err != nil && !errors.Is(err, errForeign) {
		return index, err
	}
	lock, err := n.lock(ctx, setupFile, unix.LOCK_EX)
	if err != nil {
		return 0, err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	const names = 10
	for range names {
		index, err := n.bridgeLocked(h, net)
		if !errors.Is(err, errForeign) || net.Name != DefaultNetwork {
			return index, err
		}
		// Another store made its own at the same time, or while this one had none.
		if net.Bridge, err = freeBridge(h.route); err == nil {
			err = n.writeNetwork(net)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("network %q: %s: %w", net.Name, net.Bridge, errForeign)
}

// errForeign is about an interface that has the name of a bridge.
var errForeign = fmt.Errorf("this interface is not the network's bridge: %w", fs.ErrExist)

// bridgeLocked is bridge for who holds the lock of its making.
func (n *Networks) bridgeLocked(h *host, net *Network) (int, error) {
	if index, err := h.ready(net); index != 0 || err != nil {
		return index, err
	}
	there, err := h.fw.exists()
	if err != nil {
		return 0, err
	}
	if !there {
		// Another store may be making it: then it is there, which is all that is wanted.
		if err := h.fw.install(); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, err
		}
		n.o.Logger.Debug("table made", "table", tableName)
		if err := n.restore(h); err != nil {
			return 0, err
		}
	}
	index, err := h.makeBridge(net, n.alias(net.Name))
	if err != nil {
		return 0, fmt.Errorf("network %q: %w", net.Name, err)
	}
	n.o.Logger.Debug("bridge made", "network", net.Name, "bridge", net.Bridge)
	return index, nil
}

// ready returns the index of the network's bridge if that is complete, else 0.
func (h *host) ready(net *Network) (int, error) {
	l, err := h.route.link(net.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(l.mac, net.mac()) {
		return 0, fmt.Errorf("network %q: %s: %w", net.Name, net.Bridge, errForeign)
	}
	if !l.up {
		return 0, nil
	}
	known, err := h.fw.elements(setBridges)
	if err != nil {
		return 0, err
	}
	for _, e := range known {
		if string(bytes.TrimRight(e.Key, "\x00")) == net.Bridge {
			return l.index, nil
		}
	}
	return 0, nil
}

// makeBridge makes the network's bridge, or completes what a process that died began.
// What keeps members in their place comes before what lets packets through.
func (h *host) makeBridge(net *Network, alias string) (int, error) {
	if err := h.fw.addBridge(net.Bridge, !net.Internal); err != nil {
		return 0, err
	}
	if err := h.route.addBridge(net.Bridge, net.mac(), net.MTU); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, err
	}
	l, err := h.route.link(net.Bridge)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(l.mac, net.mac()) {
		return 0, fmt.Errorf("%s: %w", net.Bridge, errForeign)
	}
	conf4, conf6 := "net/ipv4/conf/"+net.Bridge+"/", "net/ipv6/conf/"+net.Bridge+"/"
	settings := [][2]string{{conf4 + "route_localnet", "1"}, {"net/ipv4/ip_forward", "1"}}
	if net.IPv6.IsValid() {
		// A member may not make itself the host's router.
		settings = append(settings, [2]string{conf6 + "accept_ra", "0"}, [2]string{"net/ipv6/conf/all/forwarding", "1"})
	} else {
		settings = append(settings, [2]string{conf6 + "disable_ipv6", "1"})
	}
	err = h.inside(func() error {
		for _, s := range settings {
			err := setSysctl(s[0], s[1])
			if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s[0], "net/ipv6/") && !net.IPv6.IsValid() {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := h.alone(net, l.index); err != nil {
		return 0, err
	}
	addresses := []netip.Prefix{netip.PrefixFrom(net.Gateway4, net.IPv4.Bits())}
	if net.IPv6.IsValid() {
		addresses = append(addresses, netip.PrefixFrom(net.Gateway6, net.IPv6.Bits()))
	}
	for _, a := range addresses {
		if err := h.route.addAddress(l.index, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, err
		}
	}
	return l.index, h.route.switchOnAs(l.index, alias)
}

// alone refuses a subnet that another interface has got since the network was made: the
// kernel would look for the members there.
func (h *host) alone(net *Network, index int) error {
	routes, err := h.route.prefixes(unix.RTM_GETROUTE)
	if err != nil {
		return err
	}
	for _, p := range routes {
		if p.index != index && (p.prefix == net.IPv4 || p.prefix == net.IPv6) {
			return fmt.Errorf("subnet %s is that of interface %d, too: %w", p.prefix, p.index, fs.ErrExist)
		}
	}
	return nil
}

// aliasOf begins the alias of a bridge, before the path of its network's record.
const aliasOf = "layerfs: "

// alias says on a bridge which network's it is: to people, and to a sweep that looks for
// bridges of directories that somebody removed.
func (n *Networks) alias(network string) string {
	return aliasOf + filepath.Join(n.dir, dirNetworks, network, recordName)
}

// removeOrphans removes bridges without members whose network was removed with its whole
// directory.
func (h *host) removeOrphans(links []link) error {
	var errs []error
	for _, l := range links {
		record, ours := strings.CutPrefix(l.alias, aliasOf)
		if l.kind != kindBridge || !ours || slices.ContainsFunc(links, func(o link) bool { return o.master == l.index }) {
			continue
		}
		if _, err := os.Stat(record); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, h.route.deleteLink(l.index), h.fw.removeBridge(l.name))
	}
	return errors.Join(errs...)
}

// removeBridge removes what there is of a network on the host.
func (h *host) removeBridge(net *Network) error {
	l, err := h.route.link(net.Bridge)
	switch {
	case errors.Is(err, unix.ENODEV):
	case err != nil:
		return err
	case bytes.Equal(l.mac, net.mac()):
		if err := h.route.deleteLink(l.index); err != nil {
			return err
		}
	default:
		return nil // another's interface of that name
	}
	there, err := h.fw.exists()
	if err != nil || !there {
		return err
	}
	return h.fw.removeBridge(net.Bridge)
}

// restore fills a new table with what the records say. Somebody has removed the old one,
// or the machine was started.
func (n *Networks) restore(h *host) error {
	all, err := n.networks()
	if err != nil {
		return err
	}
	for _, net := range all {
		l, err := h.route.link(net.Bridge)
		if errors.Is(err, unix.ENODEV) || err == nil && !bytes.Equal(l.mac, net.mac()) {
			continue
		}
		if err != nil {
			return err
		}
		if err := h.fw.addBridge(net.Bridge, !net.Internal); err != nil {
			return err
		}
	}
	ids, err := n.names(dirContainers)
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec, err := n.record(id)
		if err != nil {
			continue // being made or removed, or damaged
		}
		for _, t := range rec.targets() {
			if err := h.fw.publish(id, []target{t}); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	}
	return nil
}

// unused removes the table if nothing is in it.
func (h *host) unused() error {
	there, err := h.fw.exists()
	if err != nil || !there {
		return err
	}
	for name := range h.fw.sets {
		elements, err := h.fw.elements(name)
		if err != nil || len(elements) > 0 {
			return err
		}
	}
	return h.fw.remove()
}

// setSysctl writes a setting of the network namespace of the calling thread.
func setSysctl(name, value string) error {
	file := path.Join("/proc/sys", name)
	// A setting that has the value already may be on a read-only mount.
	if have, err := os.ReadFile(file); err == nil && string(bytes.TrimSpace(have)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}
