package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Detach takes back what a container was given, after its end: ports, addresses, names
// and files. Its interfaces go with its namespace. A container that has nothing is no
// error.
func (n *Networks) Detach(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	lock, err := n.lock(ctx, lockFile, unix.LOCK_SH)
	if err != nil {
		return err
	}
	err = n.takeBack(ctx, id)
	if err := errors.Join(err, lock.Close()); err != nil || n.owner {
		return err
	}
	return n.leaveStreet(ctx)
}

// leaveStreet removes the street when no container is in it: no program is to run for
// nobody. A bridge on the host is left for the next container, as it costs nothing.
func (n *Networks) leaveStreet(ctx context.Context) error {
	if _, err := n.root.Stat(streetFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := n.lock(ctx, lockFile, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	ids, err := n.names(dirContainers)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if rec, err := n.record(id); err != nil || len(rec.Networks) > 0 {
			return nil // a damaged one may be in it
		}
	}
	return n.removeStreet()
}

// takeBack is called with the lock held. The record goes last.
func (n *Networks) takeBack(ctx context.Context, id string) error {
	dir := path.Join(dirContainers, id)
	rec, err := n.record(id)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid): // not yet written, or damaged
		return n.removeAll(dir)
	case err != nil:
		return err
	}
	var errs []error
	if targets := rec.targets(); len(targets) > 0 {
		errs = append(errs, n.withdraw(ctx, id, targets))
	}
	for _, m := range rec.Networks {
		errs = append(errs, n.forgetNames(m, id), n.release(m, id))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return n.removeAll(dir)
}

func (n *Networks) withdraw(ctx context.Context, id string, targets []target) error {
	at, err := n.place(ctx, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // and with it the rules
	}
	if err != nil {
		return err
	}
	defer at.Close() //nolint:errcheck // only a handle
	h, err := openHost(at)
	if err != nil {
		return err
	}
	return errors.Join(h.fw.withdraw(id, targets), h.Close())
}

func (n *Networks) removeAll(dir string) error {
	if err := n.root.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove record of network: %w", err)
	}
	return nil
}

// Sweep takes back what containers that are not alive were given, and what processes
// that died left half-done: addresses and names that no record has, interfaces that no
// container has, bridges without members, and the table when it is empty. It is for
// after a crash, and does no harm at other times.
func (n *Networks) Sweep(ctx context.Context, alive func(id string) bool) error {
	lock, err := n.lock(ctx, lockFile, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	ids, err := n.names(dirContainers)
	if err != nil {
		return err
	}
	var errs []error
	held := make(map[string]bool)  // addresses, by path
	peers := make(map[string]bool) // interfaces
	for _, id := range ids {
		if !alive(id) {
			errs = append(errs, n.takeBack(ctx, id))
			continue
		}
		rec, err := n.record(id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, m := range rec.Networks {
			peers[m.Peer] = true
			held[leasePath(m.Network, m.IPv4.Addr())] = true
			if m.IPv6.IsValid() {
				held[leasePath(m.Network, m.IPv6.Addr())] = true
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	networks, err := n.networks()
	if err != nil {
		return err
	}
	for _, net := range networks {
		errs = append(errs, n.sweepFiles(net, held))
	}
	errs = append(errs, n.sweepHost(ctx, networks, peers))
	return errors.Join(errs...)
}

// sweepFiles removes the leases and names of a network that no container has.
func (n *Networks) sweepFiles(net *Network, held map[string]bool) error {
	dir := path.Join(dirNetworks, net.Name)
	leases, err := n.names(path.Join(dir, dirLeases))
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range leases {
		if name := path.Join(dir, dirLeases, l); !held[name] {
			errs = append(errs, n.root.Remove(name))
		}
	}
	hosts, err := n.names(path.Join(dir, dirNames))
	if err != nil {
		return err
	}
	for _, host := range hosts {
		owners, err := n.names(path.Join(dir, dirNames, host))
		if err != nil {
			return err
		}
		for _, owner := range owners {
			id := strings.TrimSuffix(owner, ".new")
			if _, err := n.root.Stat(path.Join(dirContainers, id)); errors.Is(err, fs.ErrNotExist) || id != owner {
				errs = append(errs, n.root.Remove(path.Join(dir, dirNames, host, owner)))
			}
		}
		errs = append(errs, n.dropName(net.Name, host))
	}
	return errors.Join(errs...)
}

// sweepHost removes interfaces and rules that nobody needs.
func (n *Networks) sweepHost(ctx context.Context, networks []*Network, peers map[string]bool) error {
	at, err := n.place(ctx, false)
	if errors.Is(err, fs.ErrNotExist) {
		return n.removeStreet() // what may be left of it
	}
	if err != nil {
		return err
	}
	defer at.Close() //nolint:errcheck // only a handle
	h, err := openHost(at)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // a kernel without them has had none
	}
	if err != nil {
		return err
	}
	defer h.Close() //nolint:errcheck // answers were read
	links, err := h.route.links()
	if err != nil {
		return err
	}
	var errs []error
	members := 0
	for _, net := range networks {
		k, err := h.sweepBridge(net, links, peers)
		errs = append(errs, err)
		members += k
	}
	errs = append(errs, h.removeOrphans(links), h.unused())
	if members == 0 && !n.owner {
		errs = append(errs, n.removeStreet())
	}
	return errors.Join(errs...)
}

// sweepBridge removes the interfaces of a network that are nobody's, and its bridge when
// none is left. It returns how many are.
func (h *host) sweepBridge(net *Network, links []link, peers map[string]bool) (members int, _ error) {
	var errs []error
	for _, bridge := range links {
		if bridge.name != net.Bridge {
			continue
		}
		for _, l := range links {
			switch {
			case l.master != bridge.index || l.kind != kindVeth:
			case peers[l.name]:
				members++
			default:
				errs = append(errs, h.route.deleteLink(l.index))
			}
		}
	}
	if members == 0 {
		errs = append(errs, h.removeBridge(net))
	}
	return members, errors.Join(errs...)
}
