package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Attachment is the network of a container, for as long as the container lasts. The
// process that looks after the container keeps it open: it holds the ports of the host.
type Attachment struct {
	n       *Networks
	ns      *os.File
	rec     *Record
	files   string // directory of hosts and resolv.conf
	holders []*os.File
	names   *responder // nil without names to serve
	proxy   *proxy     // nil where the kernel brings published ports in
}

// Attach gives a container its network, all or nothing. What it had under the same id
// before is taken back first. The caller closes the Attachment when the container has
// ended, and calls [Networks.Detach].
//
// Errors wrap [fs.ErrInvalid] for requests that make no sense, [fs.ErrNotExist] for
// networks that are not there, [fs.ErrExist] for addresses and ports that are taken,
// with the name of the holder if that is a container of this directory,
// [fs.ErrPermission] and [errors.ErrUnsupported].
func (n *Networks) Attach(ctx context.Context, r Request) (*Attachment, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	mode := r.Network.Mode
	if mode == ModeDefault {
		mode = ModeBridge
		r.Network.Endpoints = []Endpoint{{Network: DefaultNetwork}}
	}
	if len(r.Ports) > 0 && mode != ModeBridge {
		return nil, fmt.Errorf("container %s: only containers with a network of their own publish ports: %w", r.ID, fs.ErrInvalid)
	}
	lock, err := n.lock(ctx, lockFile, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	dir := path.Join(dirContainers, r.ID)
	err = n.root.Mkdir(dir, 0o711)
	if errors.Is(err, fs.ErrExist) {
		if err := n.takeBack(ctx, r.ID); err != nil {
			return nil, err
		}
		err = n.root.Mkdir(dir, 0o711)
	}
	if err != nil {
		return nil, fmt.Errorf("make directory of container %s: %w", r.ID, err)
	}
	a := &Attachment{n: n, rec: &Record{ID: r.ID, Name: r.Name, Networks: []Membership{}}, files: filepath.Join(n.dir, dir)}
	switch mode {
	case ModeBridge:
		err = a.joinNetworks(ctx, &r)
	case ModeNone:
		err = a.alone(&r)
	case ModeContainer:
		err = a.join(&r)
	default: // the host's
	}
	if err == nil && len(a.rec.Networks) == 0 {
		err = n.writeRecord(a.rec)
	}
	if err == nil {
		err = a.writeFiles(mode, &r)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close(), n.takeBack(context.WithoutCancel(ctx), r.ID))
	}
	return a, nil
}

// alone makes a namespace with a loopback interface.
func (a *Attachment) alone(r *Request) error {
	return a.inside(r, func(*os.File, *routeConn) error { return nil })
}

// join shares another container's namespace and files.
func (a *Attachment) join(r *Request) (err error) {
	if err := isNetworkNamespace(r.Target); err != nil {
		return err
	}
	if r.TargetID != "" {
		if err := checkID(r.TargetID); err != nil {
			return err
		}
		a.files = filepath.Join(a.n.dir, dirContainers, r.TargetID)
	}
	a.ns, err = duplicate(r.Target)
	return err
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate handle of network namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// inside sets up the container's namespace: a new one, or that of the request.
func (a *Attachment) inside(r *Request, f func(ns *os.File, route *routeConn) error) (err error) {
	six := slices.ContainsFunc(a.rec.Networks, func(m Membership) bool { return m.IPv6.IsValid() })
	setUp := func(ns *os.File) error {
		route, err := openRoute()
		if err != nil {
			return err
		}
		defer route.Close() //nolint:errcheck // answers were read
		lo, err := route.link("lo")
		if err != nil {
			return err
		}
		if err := route.switchOn(lo.index); err != nil {
			return err
		}
		if len(a.rec.Networks) > 0 {
			// For interfaces to come. Without a subnet of IPv6 there is nothing to do with it,
			// and with one no other member may become the container's router.
			name, value := "disable_ipv6", "1"
			if six {
				name, value = "accept_ra", "0"
			}
			if err := setSysctl("net/ipv6/conf/default/"+name, value); err != nil && (six || !errors.Is(err, fs.ErrNotExist)) {
				return err
			}
		}
		return f(ns, route)
	}
	if r.Namespace == nil {
		a.ns, err = newNamespace(setUp)
		return err
	}
	if err := isNetworkNamespace(r.Namespace); err != nil {
		return err
	}
	if a.ns, err = duplicate(r.Namespace); err != nil {
		return err
	}
	return inNamespace(a.ns, func() error { return setUp(a.ns) })
}

// joinNetworks takes addresses and ports, records them, and only then changes anything
// in the kernel: what a process that dies here leaves is found by its record.
func (a *Attachment) joinNetworks(ctx context.Context, r *Request) (err error) {
	nets := make([]*Network, len(r.Network.Endpoints))
	for i, e := range r.Network.Endpoints {
		if nets[i], err = a.n.networkFor(ctx, e.Network); err != nil {
			return err
		}
		if slices.ContainsFunc(nets[:i], func(o *Network) bool { return o.Name == nets[i].Name }) {
			return fmt.Errorf("container %s: network %q given twice: %w", r.ID, e.Network, fs.ErrInvalid)
		}
		m, err := a.n.lease(nets[i], e, r.ID)
		if err != nil {
			return err
		}
		m.Interface = "eth" + strconv.Itoa(i)
		m.Peer = peerName(m.IPv4.Addr(), nets[i])
		if nets[i].Name != DefaultNetwork {
			m.Names = r.names(e)
		}
		a.rec.Networks = append(a.rec.Networks, m)
		// At each step, so that what fails later is taken back by the record.
		if err := a.n.writeRecord(a.rec); err != nil {
			return err
		}
	}
	if a.rec.Ports, err = a.hold(r.Ports); err != nil {
		return err
	}
	if len(a.rec.Ports) > 0 {
		if len(a.rec.targets()) == 0 {
			return fmt.Errorf("container %s: an internal network publishes no ports: %w", r.ID, fs.ErrInvalid)
		}
		if err := a.n.writeRecord(a.rec); err != nil {
			return err
		}
	}
	at, err := a.n.place(ctx, true)
	if err != nil {
		return err
	}
	defer at.Close() //nolint:errcheck // only a handle
	h, err := openHost(at)
	if err != nil {
		return err
	}
	defer h.Close() //nolint:errcheck // answers were read
	bridges := make([]int, len(nets))
	for i, net := range nets {
		if bridges[i], err = a.n.bridge(ctx, h, net); err != nil {
			return err
		}
	}
	res, err := a.n.resolvers(r)
	if err != nil {
		return err
	}
	a.names = a.n.responderFor(r.ID, nets, res)
	err = a.inside(r, func(ns *os.File, route *routeConn) error {
		if a.names != nil {
			if err := a.names.listen(); err != nil {
				return err
			}
			if err := redirectNames(a.names); err != nil {
				return err
			}
		}
		for i, m := range a.rec.Networks {
			if err := connect(h.route, route, ns, nets[i], bridges[i], m); err != nil {
				return err
			}
		}
		return route.route(a.rec)
	})
	if err != nil {
		return err
	}
	if err := h.fw.publish(r.ID, a.rec.targets()); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return a.n.conflict(a.rec, err)
		}
		return err
	}
	for _, m := range a.rec.Networks {
		if err := a.n.writeNames(m, r.ID); err != nil {
			return err
		}
	}
	if at != nil && len(a.rec.Ports) > 0 {
		street, err := duplicate(at)
		if err != nil {
			return err
		}
		a.proxy = newProxy(street, a.rec, a.holders)
	}
	if len(a.rec.Ports) == 0 {
		return nil
	}
	// The container may use its own published ports.
	for _, m := range a.rec.Networks {
		l, err := h.route.link(m.Peer)
		if err != nil {
			return err
		}
		if err := h.route.turnBack(l.index); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the interface of one membership.
func connect(host, inner *routeConn, ns *os.File, nw *Network, bridge int, m Membership) error {
	mac, err := net.ParseMAC(m.MAC)
	if err != nil {
		return err
	}
	err = host.addVeth(veth{name: m.Peer, peer: m.Interface, master: bridge, mtu: nw.MTU, ns: int(ns.Fd()), mac: mac})
	if errors.Is(err, unix.EEXIST) {
		// Of a container that had the address before; its namespace has ended or is ending.
		if old, lerr := host.link(m.Peer); lerr == nil && old.master == bridge {
			if derr := host.deleteLink(old.index); derr != nil {
				return derr
			}
		}
		err = host.addVeth(veth{name: m.Peer, peer: m.Interface, master: bridge, mtu: nw.MTU, ns: int(ns.Fd()), mac: mac})
	}
	if err != nil {
		return fmt.Errorf("network %q: %w", nw.Name, err)
	}
	l, err := inner.link(m.Interface)
	if err != nil {
		return err
	}
	if err := inner.switchOn(l.index); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{m.IPv4, m.IPv6} {
		if p.IsValid() {
			if err := inner.addAddress(l.index, p); err != nil {
				return err
			}
		}
	}
	// The kernel connects the other end, and a bridge that had no member, a little later:
	// to be asked for them makes it do so now (since Linux 6.8). Otherwise the first packet
	// may be lost, and a connection takes a second more.
	for _, name := range []string{m.Peer, nw.Bridge} {
		if _, err := host.link(name); err != nil {
			return err
		}
	}
	return nil
}

// peerName names the host's end of a pair after the network and the address: it is known
// before it is made, and nobody else's.
func peerName(a netip.Addr, net *Network) string {
	const digits = 7 // with the 6 of a host's number at most, all that a name holds
	return fmt.Sprintf("lf%.*s%x", digits, net.ID, hostNumber(a, net.IPv4))
}

// networkFor returns the network of a name, and makes the default one if it is not
// there.
func (n *Networks) networkFor(ctx context.Context, name string) (*Network, error) {
	net, err := n.Lookup(ctx, name)
	if !errors.Is(err, fs.ErrNotExist) || name != DefaultNetwork && name != nameDefault {
		return net, err
	}
	lock, err := n.lock(ctx, setupFile, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	if net, err := n.network(DefaultNetwork); !errors.Is(err, fs.ErrNotExist) {
		return net, err
	}
	return n.create(Spec{Name: DefaultNetwork})
}

// Path returns the path of the network namespace for the configuration of a container,
// good in this process as long as the attachment is open; "" is the host's own.
func (a *Attachment) Path() string {
	if a.ns == nil {
		return ""
	}
	return fmt.Sprintf("/proc/self/fd/%d", a.ns.Fd())
}

// File returns the handle of the network namespace, which stays the attachment's; nil is
// the host's own.
func (a *Attachment) File() *os.File { return a.ns }

// Record returns what the container was given: addresses, and ports with their numbers.
func (a *Attachment) Record() *Record { return a.rec }

// HostsFile and ResolvFile return the paths of files to be mounted in the container on
// /etc/hosts and /etc/resolv.conf. They last until [Networks.Detach].
func (a *Attachment) HostsFile() string { return filepath.Join(a.files, hostsFile) }

// ResolvFile is described with HostsFile.
func (a *Attachment) ResolvFile() string { return filepath.Join(a.files, resolvFile) }

// Close gives up the handle of the namespace and the hold on the host's ports. The
// namespace lasts as long as a process is in it.
func (a *Attachment) Close() error {
	var errs []error
	if a.ns != nil {
		errs = append(errs, a.ns.Close())
	}
	for _, f := range a.holders {
		errs = append(errs, f.Close())
	}
	if a.names != nil {
		errs = append(errs, a.names.close())
	}
	if a.proxy != nil {
		errs = append(errs, a.proxy.street.Close())
	}
	a.ns, a.holders, a.names, a.proxy = nil, nil, nil, nil
	return errors.Join(errs...)
}
