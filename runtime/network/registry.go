package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

func namePath(network, host string) string {
	return path.Join(dirNetworks, network, dirNames, host)
}

// maxNameFile bounds the addresses of one holder of a name, in bytes.
const maxNameFile = 256

// writeNames makes a container known by its names.
func (n *Networks) writeNames(m Membership, id string) error {
	var b bytes.Buffer
	for _, p := range []netip.Prefix{m.IPv4, m.IPv6} {
		if p.IsValid() {
			b.WriteString(p.Addr().String() + "\n")
		}
	}
	for _, host := range m.Names {
		dir := namePath(m.Network, host)
		for {
			if err := n.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make name %s known: %w", host, err)
			}
			err := n.replace(path.Join(dir, id), b.Bytes())
			if err == nil {
				break
			}
			// The last holder of the name may have removed the directory in between.
			if _, serr := n.root.Stat(dir); !errors.Is(serr, fs.ErrNotExist) {
				return fmt.Errorf("make name %s known: %w", host, err)
			}
		}
	}
	return nil
}

// forgetNames is the reverse of writeNames.
func (n *Networks) forgetNames(m Membership, id string) error {
	var errs []error
	for _, host := range m.Names {
		if err := n.root.Remove(path.Join(namePath(m.Network, host), id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forget name %s: %w", host, err))
		}
		errs = append(errs, n.dropName(m.Network, host))
	}
	return errors.Join(errs...)
}

// dropName removes the directory of a name that nobody has any more.
func (n *Networks) dropName(network, host string) error {
	err := n.root.Remove(namePath(network, host))
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return fmt.Errorf("forget name %s: %w", host, err)
}

// addresses returns who has a name in one of the networks, looked for in their order; a
// name may also be followed by that of a network. It says whether the name is known.
func (n *Networks) addresses(networks []string, name string) ([]netip.Addr, bool) {
	host, err := hostName(name)
	if err != nil {
		return nil, false
	}
	for _, network := range networks {
		for _, h := range []string{host, strings.TrimSuffix(host, "."+strings.ToLower(network))} {
			dir := namePath(network, h)
			holders, err := n.names(dir)
			if err != nil || len(holders) == 0 {
				continue
			}
			var out []netip.Addr
			for _, id := range holders {
				data, err := n.read(path.Join(dir, id), maxNameFile)
				if err != nil || strings.HasSuffix(id, ".new") {
					continue
				}
				for line := range strings.Lines(string(data)) {
					if a, err := netip.ParseAddr(strings.TrimSpace(line)); err == nil {
						out = append(out, a)
					}
				}
			}
			if len(out) > 0 {
				return out, true
			}
		}
	}
	return nil, false
}

// nameOf returns the name of the container that has an address in one of the networks.
func (n *Networks) nameOf(networks []string, a netip.Addr) (string, bool) {
	for _, network := range networks {
		id, err := n.read(leasePath(network, a), maxContainerID)
		if err != nil {
			continue
		}
		rec, err := n.record(string(id))
		if err != nil {
			continue
		}
		for _, m := range rec.Networks {
			if m.Network == network && len(m.Names) > 0 {
				return m.Names[0] + "." + strings.ToLower(network), true
			}
		}
	}
	return "", false
}
