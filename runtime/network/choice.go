package network

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
)

// Mode is the kind of network that a container has.
type Mode int

// The modes.
const (
	// ModeDefault is ModeBridge on the default network.
	ModeDefault Mode = iota
	// ModeBridge is a namespace of its own, joined to networks.
	ModeBridge
	// ModeNone is a namespace of its own with a loopback interface only.
	ModeNone
	// ModeHost is the namespace of the host.
	ModeHost
	// ModeContainer is the namespace of another container.
	ModeContainer
)

// Endpoint is the membership of a container in one network.
type Endpoint struct {
	Network string
	// IPv4 and IPv6 are the addresses to have; the zero Addr takes any that is free.
	IPv4, IPv6 netip.Addr
	MAC        net.HardwareAddr // nil makes one from the IPv4 address
	// Aliases are further names by which members of the network find the container.
	Aliases []string
}

// Choice is what a user says of the network of a container.
type Choice struct {
	Mode      Mode
	Container string     // of ModeContainer: name or id of the other
	Endpoints []Endpoint // of ModeBridge
}

const (
	maxEndpoints = 32  // networks of one container
	maxAliases   = 256 // names of one container in one network
)

// ParseNetwork reads what Docker's --network takes, given once or several times:
// "bridge" or "default", "none", "host", "container:NAME", the name of a network, or
// "name=NETWORK" followed by "alias=…", "ip=…", "ip6=…" and "mac-address=…", separated by
// commas. No value at all is ModeDefault.
func ParseNetwork(values []string) (Choice, error) {
	var c Choice
	for i, v := range values {
		var one Choice
		switch {
		case v == "" || v == nameDefault:
		case v == nameNone:
			one.Mode = ModeNone
		case v == nameHost:
			one.Mode = ModeHost
		case strings.HasPrefix(v, nameContainer+":"):
			one = Choice{Mode: ModeContainer, Container: v[len(nameContainer)+1:]}
			if err := checkID(one.Container); err != nil {
				return c, fmt.Errorf("network %q: %w", v, err)
			}
		default:
			e, err := parseEndpoint(v)
			if err != nil {
				return c, err
			}
			one = Choice{Mode: ModeBridge, Endpoints: []Endpoint{e}}
		}
		if i == 0 {
			c = one
			continue
		}
		if c.Mode != ModeBridge || one.Mode != ModeBridge {
			return c, fmt.Errorf("network %q: only networks of their own names go together: %w", v, fs.ErrInvalid)
		}
		for _, e := range c.Endpoints {
			if e.Network == one.Endpoints[0].Network {
				return c, fmt.Errorf("network %q: given twice: %w", e.Network, fs.ErrInvalid)
			}
		}
		c.Endpoints = append(c.Endpoints, one.Endpoints...)
		if len(c.Endpoints) > maxEndpoints {
			return c, fmt.Errorf("networks: more than %d: %w", maxEndpoints, fs.ErrInvalid)
		}
	}
	return c, nil
}

func parseEndpoint(s string) (Endpoint, error) {
	var e Endpoint
	if !strings.Contains(s, "=") {
		e.Network = s
		return e, checkNetworkName(s)
	}
	for field := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch key {
		case "name":
			e.Network, err = value, checkNetworkName(value)
		case "alias":
			var name string
			name, err = hostName(value)
			e.Aliases = append(e.Aliases, name)
			if len(e.Aliases) > maxAliases {
				err = fmt.Errorf("more than %d aliases: %w", maxAliases, fs.ErrInvalid)
			}
		case "ip":
			e.IPv4, err = parseAddress(value, false)
		case "ip6":
			e.IPv6, err = parseAddress(value, true)
		case "mac-address":
			e.MAC, err = parseMAC(value)
		default:
			err = fmt.Errorf("%q is not known: %w", key, fs.ErrInvalid)
		}
		if err != nil {
			return e, fmt.Errorf("network %q: %w", s, err)
		}
	}
	if e.Network == "" {
		return e, fmt.Errorf("network %q: lacks name=: %w", s, fs.ErrInvalid)
	}
	return e, nil
}

func parseAddress(s string, six bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is6() != six || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is no such address: %w", s, fs.ErrInvalid)
	}
	return a, nil
}

// parseMAC takes an Ethernet address of a single station.
func parseMAC(s string) (net.HardwareAddr, error) {
	const ethernet, group = 6, 1
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != ethernet || mac[0]&group != 0 {
		return nil, fmt.Errorf("%q is no Ethernet address of one station: %w", s, fs.ErrInvalid)
	}
	return mac, nil
}
