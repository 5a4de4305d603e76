package network

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
)

// Request says what a container is to have.
type Request struct {
	// ID is unique among containers, and a word: letters, digits, "_", "." and "-".
	ID string
	// Name is the container's name, by which members of its networks find it; "" is none.
	Name string
	// Hostname is the container's own; "" is the first 12 bytes of the id.
	Hostname string
	// Network is what [ParseNetwork] read.
	Network Choice
	Ports   []PortMapping

	// Target is a handle of the network namespace to share, and TargetID the container
	// whose it is, in ModeContainer. The handle stays the caller's to close.
	Target   *os.File
	TargetID string

	// Namespace, if not nil, is a network namespace to set up instead of a new one: for
	// a container with user ids of its own, whose namespace must belong to its user
	// namespace. It stays the caller's to close.
	Namespace *os.File

	DNS        []netip.Addr // name servers instead of the host's
	DNSSearch  []string     // instead of the host's; a single "." is none at all
	DNSOptions []string
	Hosts      []Host // more lines of /etc/hosts
	Links      []Link // other containers by names of one's own
}

// Host is a name in /etc/hosts.
type Host struct {
	Name string
	Addr netip.Addr // the zero Addr is that of the host as the container sees it
}

// Link gives another container, by its id, a name that only this container knows.
type Link struct{ ID, Alias string }

const (
	maxHosts   = 1024 // lines that a container adds to its /etc/hosts
	maxServers = 16   // name servers, search domains and options of a container, each
)

func (r *Request) check() error {
	if err := checkID(r.ID); err != nil {
		return err
	}
	var names []string
	if r.Name != "" {
		names = append(names, r.Name)
	}
	if r.Hostname != "" {
		names = append(names, r.Hostname)
	}
	for _, h := range r.Hosts {
		names = append(names, h.Name)
		if h.Addr.Zone() != "" {
			return fmt.Errorf("container %s: address %s of %s has a zone: %w", r.ID, h.Addr, h.Name, fs.ErrInvalid)
		}
	}
	for _, l := range r.Links {
		names = append(names, l.Alias)
		if err := checkID(l.ID); err != nil {
			return err
		}
	}
	for _, e := range r.Network.Endpoints {
		names = append(names, e.Aliases...)
		if len(e.Aliases) > maxAliases {
			return fmt.Errorf("container %s: %d aliases, at most %d: %w", r.ID, len(e.Aliases), maxAliases, fs.ErrInvalid)
		}
		if err := checkNetworkName(e.Network); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := hostName(name); err != nil {
			return fmt.Errorf("container %s: %w", r.ID, err)
		}
	}
	for _, s := range slices.Concat(r.DNSSearch, r.DNSOptions) {
		if s == "" || len(s) > maxHostName || slices.ContainsFunc([]byte(s), func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '#' || c == ';' }) {
			return fmt.Errorf("container %s: %q is no search domain or option of a resolver: %w", r.ID, s, fs.ErrInvalid)
		}
	}
	switch {
	case len(r.Ports) > maxPorts:
		return fmt.Errorf("container %s: %d published ports, at most %d: %w", r.ID, len(r.Ports), maxPorts, fs.ErrInvalid)
	case len(r.Hosts)+len(r.Links) > maxHosts:
		return fmt.Errorf("container %s: %d names of hosts, at most %d: %w", r.ID, len(r.Hosts)+len(r.Links), maxHosts, fs.ErrInvalid)
	case len(r.DNS) > maxServers || len(r.DNSSearch) > maxServers || len(r.DNSOptions) > maxServers:
		return fmt.Errorf("container %s: more than %d name servers, search domains or options: %w", r.ID, maxServers, fs.ErrInvalid)
	case len(r.Network.Endpoints) > maxEndpoints:
		return fmt.Errorf("container %s: %d networks, at most %d: %w", r.ID, len(r.Network.Endpoints), maxEndpoints, fs.ErrInvalid)
	case r.Network.Mode == ModeBridge && len(r.Network.Endpoints) == 0:
		return fmt.Errorf("container %s: no network named: %w", r.ID, fs.ErrInvalid)
	case r.Network.Mode == ModeContainer && r.Target == nil:
		return fmt.Errorf("container %s: no namespace given to share: %w", r.ID, fs.ErrInvalid)
	}
	return nil
}

// names are those by which a container is found in a network.
func (r *Request) names(e Endpoint) []string {
	var out []string
	for _, s := range append([]string{r.Name, shortID(r.ID), r.Hostname}, e.Aliases...) {
		if name, err := hostName(s); err == nil && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// shortID is the part of an id that Docker shows.
func shortID(id string) string { return fmt.Sprintf("%.12s", id) }
