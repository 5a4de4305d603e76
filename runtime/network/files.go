package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/internal/durable"
)

// maxResolv bounds the host's resolver configuration, in bytes, and its hosts file.
const maxResolv = 1 << 20

// resolver is the content of a resolv.conf(5).
type resolver struct {
	servers []netip.Addr
	search  []string
	options []string
}

// parseResolv reads what it understands and leaves out the rest, as resolvers do.
func parseResolv(data []byte) resolver {
	var r resolver
	for line := range bytes.Lines(data) {
		line, _, _ = bytes.Cut(line, []byte("#"))
		line, _, _ = bytes.Cut(line, []byte(";"))
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(r.servers) < maxServers {
				r.servers = append(r.servers, a)
			}
		case "domain", "search":
			r.search = f[1:min(len(f), maxServers+1)]
		case "options":
			r.options = append(r.options, f[1:]...)
			r.options = r.options[:min(len(r.options), maxServers)]
		}
	}
	return r
}

func (r resolver) format() []byte {
	var b bytes.Buffer
	for _, s := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.Bytes()
}

// resolvers returns the host's settings with what the request has instead.
func (n *Networks) resolvers(req *Request) (resolver, error) {
	f, err := os.Open(n.o.Resolv)
	var r resolver
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return r, fmt.Errorf("read the host's resolver configuration: %w", err)
	default:
		data, err := readAll(f, maxResolv)
		if err := errors.Join(err, f.Close()); err != nil {
			return r, fmt.Errorf("read the host's resolver configuration: %w", err)
		}
		r = parseResolv(data)
	}
	if len(req.DNS) > 0 {
		r.servers = req.DNS
	}
	if len(req.DNSSearch) > 0 {
		r.search = req.DNSSearch
		if slices.Equal(r.search, []string{"."}) {
			r.search = nil
		}
	}
	if len(req.DNSOptions) > 0 {
		r.options = req.DNSOptions
	}
	return r, nil
}

// writeFiles writes /etc/hosts and /etc/resolv.conf of the container.
func (a *Attachment) writeFiles(mode Mode, req *Request) error {
	if mode == ModeContainer && req.TargetID != "" {
		return nil // the other's
	}
	r, err := a.n.resolvers(req)
	if err != nil {
		return err
	}
	if mode == ModeBridge {
		// The host's own loopback addresses are not the container's.
		r.servers = slices.DeleteFunc(slices.Clone(r.servers), func(s netip.Addr) bool { return s.IsLoopback() })
	}
	if a.names != nil {
		// One dot is enough for a name to be asked as it is, as in Docker.
		r.servers = []netip.Addr{resolverAddr()}
		if !slices.ContainsFunc(r.options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
			r.options = append(slices.Clone(r.options), "ndots:0")
		}
	}
	hosts, err := a.hosts(mode, req)
	if err != nil {
		return err
	}
	dir := path.Join(dirContainers, a.rec.ID)
	// Whole from the start or not is all the same: nobody reads them before they are there.
	if err := errors.Join(
		durable.Create(a.n.root, path.Join(dir, hostsFile), 0o644, hosts, false),
		durable.Create(a.n.root, path.Join(dir, resolvFile), 0o644, r.format(), false),
	); err != nil {
		return fmt.Errorf("write files of container %s: %w", a.rec.ID, err)
	}
	return nil
}

func (a *Attachment) hosts(mode Mode, req *Request) ([]byte, error) {
	var b bytes.Buffer
	if mode == ModeHost {
		// A copy, since the container may write to it.
		f, err := os.Open("/etc/hosts")
		if err == nil {
			var data []byte
			data, err = readAll(f, maxResolv)
			b.Write(data)
			err = errors.Join(err, f.Close())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the host's names: %w", err)
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	var gateway netip.Addr
	if len(a.rec.Networks) > 0 {
		gateway = a.rec.Networks[0].Gateway4
	}
	if mode == ModeHost || mode == ModeNone {
		gateway = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	for _, h := range req.Hosts {
		addr := h.Addr
		if !addr.IsValid() {
			addr = gateway
		}
		if !addr.IsValid() {
			return nil, fmt.Errorf("host name %q: the host has no address that the container reaches: %w", h.Name, fs.ErrInvalid)
		}
		fmt.Fprintf(&b, "%s\t%s\n", addr, h.Name)
	}
	for _, l := range req.Links {
		addr, names, err := a.linked(l)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\t%s\n", addr, strings.Join(names, " "))
	}
	own := req.Hostname
	if own == "" {
		own = shortID(req.ID)
	}
	if name, _, ok := strings.Cut(own, "."); ok {
		own += " " + name
	}
	for _, m := range a.rec.Networks {
		for _, p := range []netip.Prefix{m.IPv4, m.IPv6} {
			if p.IsValid() {
				fmt.Fprintf(&b, "%s\t%s\n", p.Addr(), own)
			}
		}
	}
	if len(a.rec.Networks) == 0 && mode == ModeNone {
		fmt.Fprintf(&b, "127.0.0.1\t%s\n", own)
	}
	return b.Bytes(), nil
}

// linked returns the address of another container in a network that both are in.
func (a *Attachment) linked(l Link) (netip.Addr, []string, error) {
	other, err := a.n.record(l.ID)
	if err != nil {
		return netip.Addr{}, nil, fmt.Errorf("link %s: %w", l.Alias, err)
	}
	for _, m := range a.rec.Networks {
		for _, o := range other.Networks {
			if m.Network == o.Network {
				names := []string{l.Alias}
				for _, name := range []string{shortID(l.ID), other.Name} {
					if name != "" && !slices.Contains(names, name) {
						names = append(names, name)
					}
				}
				return o.IPv4.Addr(), names, nil
			}
		}
	}
	return netip.Addr{}, nil, fmt.Errorf("link %s: container %s is in no network of this one: %w", l.Alias, l.ID, fs.ErrNotExist)
}

// ParseHost reads what Docker's --add-host takes: NAME:IP or NAME=IP, where the IP
// "host-gateway" is the host.
func ParseHost(s string) (Host, error) {
	i := strings.IndexAny(s, ":=")
	if i < 0 {
		return Host{}, fmt.Errorf("host %q: want NAME:IP: %w", s, fs.ErrInvalid)
	}
	name, ip := s[:i], s[i+1:]
	if _, err := hostName(name); err != nil {
		return Host{}, err
	}
	if ip == "host-gateway" {
		return Host{Name: name}, nil
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
	if err != nil || addr.Zone() != "" {
		return Host{}, fmt.Errorf("host %q: %q is no address: %w", s, ip, fs.ErrInvalid)
	}
	return Host{Name: name, Addr: addr}, nil
}
