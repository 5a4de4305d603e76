package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Connect makes a container that runs, whose namespace ns is, a member of one more
// network. The error wraps [fs.ErrExist] if it is one already, and [fs.ErrInvalid] if it
// has no network of its own.
func (n *Networks) Connect(ctx context.Context, id string, ns *os.File, e Endpoint) (err error) {
	r := Request{ID: id, Network: Choice{Mode: ModeBridge, Endpoints: []Endpoint{e}}}
	if err := r.check(); err != nil {
		return err
	}
	if err := isNetworkNamespace(ns); err != nil {
		return err
	}
	nw, err := n.networkFor(ctx, e.Network)
	if err != nil {
		return err
	}
	at, err := n.place(ctx, true)
	if err != nil {
		return err
	}
	defer at.Close() //nolint:errcheck // only a handle
	lock, err := n.lock(ctx, lockFile, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	rec, err := n.record(id)
	if err != nil {
		return err
	}
	switch {
	case len(rec.Networks) == 0:
		return fmt.Errorf("container %s has no network of its own: %w", id, fs.ErrInvalid)
	case len(rec.Networks) >= maxEndpoints:
		return fmt.Errorf("container %s is in %d networks already: %w", id, maxEndpoints, fs.ErrInvalid)
	case slices.ContainsFunc(rec.Networks, func(m Membership) bool { return m.Network == nw.Name }):
		return fmt.Errorf("container %s is in network %q already: %w", id, nw.Name, fs.ErrExist)
	}
	m, err := n.lease(nw, e, id)
	if err != nil {
		return err
	}
	m.Interface = freeInterface(rec)
	m.Peer = peerName(m.IPv4.Addr(), nw)
	if nw.Name != DefaultNetwork {
		r.Name = rec.Name
		m.Names = r.names(e)
	}
	rec.Networks = append(rec.Networks, m)
	if err := n.writeRecord(rec); err != nil {
		return errors.Join(err, n.release(m, id))
	}
	h, err := openHost(at)
	if err != nil {
		return err
	}
	defer h.Close() //nolint:errcheck // answers were read
	defer func() {
		if err != nil {
			err = errors.Join(err, n.leave(h, rec, len(rec.Networks)-1))
		}
	}()
	bridge, err := n.bridge(ctx, h, nw)
	if err != nil {
		return err
	}
	err = inNamespace(ns, func() error {
		inner, err := openRoute()
		if err != nil {
			return err
		}
		defer inner.Close() //nolint:errcheck // answers were read
		if err := connect(h.route, inner, ns, nw, bridge, m); err != nil {
			return err
		}
		return inner.route(rec)
	})
	if err != nil {
		return err
	}
	return n.writeNames(m, id)
}

// freeInterface returns the first name of an interface that no membership has.
func freeInterface(rec *Record) string {
	for i := 0; ; i++ {
		name := "eth" + strconv.Itoa(i)
		if !slices.ContainsFunc(rec.Networks, func(m Membership) bool { return m.Interface == name }) {
			return name
		}
	}
}

// route gives a container that has no default route one by the first network that has a
// way out.
func (r *routeConn) route(rec *Record) error {
	for _, gateway := range []func(Membership) netip.Addr{
		func(m Membership) netip.Addr { return m.Gateway4 },
		func(m Membership) netip.Addr { return m.Gateway6 },
	} {
		for _, m := range rec.Networks {
			if !gateway(m).IsValid() {
				continue
			}
			l, err := r.link(m.Interface)
			if err == nil {
				err = r.addDefaultRoute(l.index, gateway(m))
			}
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
			break
		}
	}
	return nil
}

// Disconnect takes a container out of a network. Its namespace ns may be nil if it does
// not run. Published ports move to the next network that has a way out. The error wraps
// [fs.ErrNotExist] if it is not a member.
func (n *Networks) Disconnect(ctx context.Context, id string, ns *os.File, network string) error {
	if err := checkID(id); err != nil {
		return err
	}
	nw, err := n.Lookup(ctx, network)
	if err != nil {
		return err
	}
	at, err := n.place(ctx, false)
	if err != nil {
		return err
	}
	defer at.Close() //nolint:errcheck // only a handle
	lock, err := n.lock(ctx, lockFile, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	rec, err := n.record(id)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rec.Networks, func(m Membership) bool { return m.Network == nw.Name })
	if i < 0 {
		return fmt.Errorf("container %s is not in network %q: %w", id, nw.Name, fs.ErrNotExist)
	}
	h, err := openHost(at)
	if err != nil {
		return err
	}
	defer h.Close() //nolint:errcheck // answers were read
	if err := n.leave(h, rec, i); err != nil {
		return err
	}
	if ns == nil {
		return nil
	}
	return inNamespace(ns, func() error {
		inner, err := openRoute()
		if err != nil {
			return err
		}
		return errors.Join(inner.route(rec), inner.Close())
	})
}

// leave takes a membership out of the kernel and the record.
func (n *Networks) leave(h *host, rec *Record, i int) error {
	m, ports := rec.Networks[i], rec.targets()
	l, err := h.route.link(m.Peer)
	if err == nil {
		err = h.route.deleteLink(l.index)
	}
	if err := ignore(err, unix.ENODEV); err != nil {
		return err
	}
	rec.Networks = slices.Delete(slices.Clone(rec.Networks), i, i+1)
	if moved := rec.targets(); !slices.Equal(ports, moved) {
		if err := h.fw.withdraw(rec.ID, ports); err != nil {
			return err
		}
		if err := h.fw.publish(rec.ID, moved); err != nil {
			return err
		}
	}
	if err := errors.Join(n.forgetNames(m, rec.ID), n.release(m, rec.ID)); err != nil {
		return err
	}
	return n.writeRecord(rec)
}
