package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/internal/durable"
	"golang.org/x/sys/unix"
)

// ErrInUse says that a network has members.
var ErrInUse = fmt.Errorf("network has members: %w", fs.ErrExist)

// Networks are the networks of one directory. It may be used by several goroutines, and
// the directory by several processes.
type Networks struct {
	root  *os.Root
	dir   string
	owner bool // the network of this process may be changed
	o     Options
}

// Options are settings of [Open].
type Options struct {
	// Resolv is the resolver's configuration that containers get, less what cannot be
	// reached from them; "" is /etc/resolv.conf.
	Resolv string
	Logger *slog.Logger // nil discards
}

// Open opens the networks whose records lie in a directory, which is made with its
// parent's if it is not there. It does not touch the host's network. The caller closes
// it.
func Open(dir string, o Options) (*Networks, error) {
	if o.Resolv == "" {
		o.Resolv = "/etc/resolv.conf"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make directory of networks: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory of networks: %w", err)
	}
	owner, err := ownsNetwork()
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory of networks: %w", err)
	}
	n := &Networks{root: root, dir: dir, owner: owner, o: o}
	for _, d := range []string{dirNetworks, dirContainers} {
		// Others may pass through: a container's files are read from within it.
		if err := root.Mkdir(d, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("make directory of networks: %w", err), root.Close())
		}
	}
	return n, nil
}

// Close releases the handle of the directory.
func (n *Networks) Close() error { return n.root.Close() }

const (
	dirNetworks   = "networks"
	dirContainers = "containers"
	recordName    = "network.json"
	dirLeases     = "leases"
	dirNames      = "names"
	nextName      = "next"
)

// Network is a network that containers can join.
type Network struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"` // 64 hexadecimal digits
	Created time.Time `json:"created"`
	Bridge  string    `json:"bridge"` // its interface on the host
	// IPv4 and IPv6 are the subnets; the latter is the zero Prefix without IPv6.
	IPv4     netip.Prefix `json:"ipv4"`
	IPv6     netip.Prefix `json:"ipv6,omitzero"`
	Gateway4 netip.Addr   `json:"gateway4"` // the host's address in it
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
	// Internal networks have no way out, and publish no ports.
	Internal bool              `json:"internal,omitempty"`
	MTU      int               `json:"mtu"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// Spec is a network to make.
type Spec struct {
	Name string
	// IPv4 and IPv6 are the subnets to have. The zero Prefix takes one that the host has
	// no route to; for IPv6 only if EnableIPv6 is set.
	IPv4, IPv6         netip.Prefix
	Gateway4, Gateway6 netip.Addr // the zero Addr is the first of the subnet
	EnableIPv6         bool
	Internal           bool
	MTU                int // bytes; 0 is 1500, or less if the host's default route has less
	Labels             map[string]string
}

const (
	minMTU, maxMTU = 576, 65535 // bytes; the kernel's bounds for veth are wider below
	defaultMTU     = 1500

	maxNetworks      = 1024    // networks in one directory
	maxNetworkRecord = 1 << 20 // bytes in the record of a network
	maxLabels        = 256     // labels of one network
	maxLabelBytes    = 64 << 10
)

// Create makes the record of a network. Its bridge comes with its first member. The
// error wraps [fs.ErrExist] if the name or the subnet is taken.
func (n *Networks) Create(ctx context.Context, s Spec) (*Network, error) {
	if err := checkNewName(s.Name); err != nil {
		return nil, err
	}
	if s.Name == DefaultNetwork {
		return nil, fmt.Errorf("network %q: the default network makes itself: %w", s.Name, fs.ErrExist)
	}
	lock, err := n.lock(ctx, lockFile, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	return n.create(s)
}

// create is called with one of the locks held exclusively.
func (n *Networks) create(s Spec) (*Network, error) {
	var labels int
	for k, v := range s.Labels {
		labels += len(k) + len(v)
	}
	if len(s.Labels) > maxLabels || labels > maxLabelBytes {
		return nil, fmt.Errorf("network %q: %d labels of %d bytes; at most %d of %d: %w", s.Name, len(s.Labels), labels, maxLabels, maxLabelBytes, fs.ErrInvalid)
	}
	all, err := n.networks()
	if err != nil {
		return nil, err
	}
	if len(all) >= maxNetworks {
		return nil, fmt.Errorf("network %q: there are %d networks already: %w", s.Name, len(all), fs.ErrInvalid)
	}
	if slices.ContainsFunc(all, func(o *Network) bool { return o.Name == s.Name }) {
		return nil, fmt.Errorf("network %q: %w", s.Name, fs.ErrExist)
	}
	var random [32]byte
	rand.Read(random[:]) // never fails
	net := &Network{
		Name: s.Name, ID: hex.EncodeToString(random[:]), Created: time.Now().UTC().Truncate(time.Second),
		Internal: s.Internal, MTU: s.MTU, Labels: s.Labels,
	}
	net.Bridge = "lf-" + net.ID[:12] // fills the 15 bytes of an interface's name
	r, err := openRoute()
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // nothing was written
	if s.Name == DefaultNetwork {
		if net.Bridge, err = freeBridge(r); err != nil {
			return nil, err
		}
	}
	if net.MTU == 0 {
		if net.MTU, err = r.uplinkMTU(); err != nil {
			return nil, err
		}
	}
	if net.MTU < minMTU || net.MTU > maxMTU {
		return nil, fmt.Errorf("network %q: MTU %d: want %d to %d: %w", s.Name, net.MTU, minMTU, maxMTU, fs.ErrInvalid)
	}
	if err := net.chooseSubnets(s, r, all); err != nil {
		return nil, fmt.Errorf("network %q: %w", s.Name, err)
	}
	return net, n.writeNetwork(net)
}

// freeBridge returns the first name of a default network's bridge that no interface has:
// each store has a default network of its own.
func freeBridge(r *routeConn) (string, error) {
	links, err := r.links()
	if err != nil {
		return "", err
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("layerfs%d", i)
		if !slices.ContainsFunc(links, func(l link) bool { return l.name == name }) {
			return name, nil
		}
	}
}

func (n *Networks) writeNetwork(net *Network) error {
	data, err := json.MarshalIndent(net, "", "  ")
	if err != nil {
		return err
	}
	dir := path.Join(dirNetworks, net.Name)
	for _, d := range []string{dir, path.Join(dir, dirLeases), path.Join(dir, dirNames)} {
		if err := n.root.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make directory of network: %w", err)
		}
	}
	temp, name := path.Join(dir, recordName+".new"), path.Join(dir, recordName)
	if err := n.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died
		return fmt.Errorf("write record of network: %w", err)
	}
	if err := durable.WriteFile(n.root, temp, name, 0o600, data); err != nil {
		return fmt.Errorf("write record of network: %w", err)
	}
	return durable.SyncDir(n.root, dirNetworks)
}

// Lookup returns the network of a name, or of an id or a beginning of one that only one
// network has. The error wraps [fs.ErrNotExist] if there is none. The default network is
// there once it was used.
func (n *Networks) Lookup(_ context.Context, name string) (*Network, error) {
	if name == nameDefault {
		name = DefaultNetwork
	}
	if err := checkNetworkName(name); err != nil {
		return nil, err
	}
	net, err := n.network(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return net, err
	}
	all, err := n.networks()
	if err != nil {
		return nil, err
	}
	var found *Network
	for _, net := range all {
		if strings.HasPrefix(net.ID, name) {
			if found != nil {
				return nil, fmt.Errorf("network %q: the ids of several networks begin so: %w", name, fs.ErrInvalid)
			}
			found = net
		}
	}
	if found == nil {
		return nil, fmt.Errorf("network %q: %w", name, fs.ErrNotExist)
	}
	return found, nil
}

// List returns all networks, by name.
func (n *Networks) List(context.Context) ([]*Network, error) { return n.networks() }

func (n *Networks) network(name string) (*Network, error) {
	data, err := n.read(path.Join(dirNetworks, name, recordName), maxNetworkRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("network %q: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read record of network %q: %w", name, err)
	}
	net := new(Network)
	if err := json.Unmarshal(data, net); err != nil {
		return nil, fmt.Errorf("record of network %q: %w: %w", name, fs.ErrInvalid, err)
	}
	if net.Name != name || !net.IPv4.IsValid() || !net.IPv4.Addr().Is4() || !net.IPv4.Contains(net.Gateway4) || net.Bridge == "" ||
		net.IPv6.IsValid() && (!net.IPv6.Addr().Is6() || !net.IPv6.Contains(net.Gateway6)) {
		return nil, fmt.Errorf("record of network %q: does not hold together: %w", name, fs.ErrInvalid)
	}
	return net, nil
}

func (n *Networks) networks() ([]*Network, error) {
	names, err := n.names(dirNetworks)
	if err != nil {
		return nil, err
	}
	var out []*Network
	for _, name := range names {
		net, err := n.network(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // being made or removed
		}
		if err != nil {
			return nil, err
		}
		out = append(out, net)
	}
	return out, nil
}

// Remove removes a network; the error wraps [ErrInUse] while it has members. The default
// network cannot be removed.
func (n *Networks) Remove(ctx context.Context, name string) error {
	net, err := n.Lookup(ctx, name)
	if err != nil {
		return err
	}
	if net.Name == DefaultNetwork {
		return fmt.Errorf("network %q: the default network stays: %w", name, fs.ErrPermission)
	}
	lock, err := n.lock(ctx, lockFile, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // only a lock
	members, err := n.names(path.Join(dirNetworks, net.Name, dirLeases))
	if err != nil {
		return err
	}
	if len(members) > 0 {
		return fmt.Errorf("network %q: %w", net.Name, ErrInUse)
	}
	if err := n.removeBridge(ctx, net); err != nil {
		return err
	}
	// The record last but one: without it the rest is no network.
	dir := path.Join(dirNetworks, net.Name)
	if err := durable.Remove(n.root, path.Join(dir, recordName)); err != nil {
		return fmt.Errorf("remove network %q: %w", net.Name, err)
	}
	if err := n.root.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove network %q: %w", net.Name, err)
	}
	return nil
}

func (n *Networks) removeBridge(ctx context.Context, net *Network) error {
	at, err := n.place(ctx, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.Close() //nolint:errcheck // only a handle
	h, err := openHost(at)
	if err != nil {
		return err
	}
	return errors.Join(h.removeBridge(net), h.Close())
}

// Prune removes all networks without members but the default one, and returns their
// names.
func (n *Networks) Prune(ctx context.Context) ([]string, error) {
	all, err := n.networks()
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, net := range all {
		if net.Name == DefaultNetwork {
			continue
		}
		err := n.Remove(ctx, net.Name)
		if errors.Is(err, ErrInUse) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, err
		}
		removed = append(removed, net.Name)
	}
	return removed, nil
}

// names returns the sorted names in a directory; one that is not there is empty.
func (n *Networks) names(dir string) ([]string, error) {
	f, err := n.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s of networks: %w", dir, err)
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("list %s of networks: %w", dir, err)
	}
	slices.Sort(names)
	return names, nil
}

// read returns the content of a file of at most limit bytes.
func (n *Networks) read(name string, limit int64) ([]byte, error) {
	f, err := n.root.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := readAll(f, limit)
	return data, errors.Join(err, f.Close())
}

// Members returns what the containers of a network were given, by their ids.
func (n *Networks) Members(ctx context.Context, name string) ([]*Record, error) {
	net, err := n.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	dir := path.Join(dirNetworks, net.Name, dirLeases)
	leases, err := n.names(dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, l := range leases {
		id, err := n.read(path.Join(dir, l), maxContainerID)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read lease of %s: %w", l, err)
		}
		if err == nil && len(id) > 0 {
			ids = append(ids, string(id))
		}
	}
	slices.Sort(ids)
	var out []*Record
	for _, id := range slices.Compact(ids) {
		rec, err := n.record(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is being attached, or has just gone
		}
		if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	return out, nil
}
