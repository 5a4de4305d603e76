package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/bundle"
	"github.com/layerfs/layerfs/runtime/network"
)

// networks opens the networks of the store. The caller closes them.
func (a *app) networks(ctx context.Context) (*network.Networks, error) {
	if _, err := a.store(ctx); err != nil {
		return nil, err
	}
	return network.Open(filepath.Join(a.disk.Root(), "network"), network.Options{Logger: a.warner()})
}

// connection is the network of a container that is run here.
type connection struct {
	*network.Attachment
	networks *network.Networks
	id       string
	stop     context.CancelFunc // of what is served
	served   chan struct{}
}

// serve answers the container's questions for names, and what else this process does for
// its network, until it ends.
func (c *connection) serve(ctx context.Context, log *slog.Logger) {
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.served = make(chan struct{})
	go func() {
		defer close(c.served)
		if err := c.Serve(ctx); err != nil {
			log.Error("the network of the container is not served", "error", err)
		}
	}()
}

func (c *connection) end() error {
	if c.stop != nil {
		c.stop()
		<-c.served
	}
	return errors.Join(c.Close(), c.networks.Detach(context.Background(), c.id), c.networks.Close())
}

// attachNetwork gives a container its network and says in h what the specification needs
// of it. It returns nil where there is nothing to look after.
func (a *app) attachNetwork(ctx context.Context, rec *container.Record, h *bundle.Host) (_ *connection, err error) {
	choice, err := network.ParseNetwork(rec.Networks)
	if err != nil {
		return nil, err
	}
	if choice.Mode == network.ModeNone && len(rec.Hosts)+len(rec.Links)+len(rec.Ports)+len(rec.DNS) == 0 {
		return nil, nil // a namespace of its own, in which only the loopback interface is up
	}
	req, err := networkRequest(rec, choice)
	if err != nil {
		return nil, err
	}
	if err := a.linkContainers(ctx, rec, &req); err != nil {
		return nil, err
	}
	if choice.Mode == network.ModeContainer {
		_, other, err := a.container(ctx, choice.Container)
		if err != nil {
			return nil, err
		}
		if !other.State.Active() {
			return nil, fmt.Errorf("join the network of container %s: %w", other.Name, container.ErrNotActive)
		}
		target, err := os.Open("/proc/" + strconv.Itoa(other.State.Process.Pid) + "/ns/net")
		if err != nil {
			return nil, fmt.Errorf("join the network of container %s: %w", other.Name, err)
		}
		defer join(&err, target.Close)
		// It ran when the namespace was opened, if it does now.
		if err := other.State.Process.Verify(); err != nil {
			return nil, fmt.Errorf("join the network of container %s: %w: %w", other.Name, err, container.ErrNotActive)
		}
		req.Target, req.TargetID = target, string(other.ID)
	}
	ns, err := a.networks(ctx)
	if err != nil {
		return nil, err
	}
	att, err := ns.Attach(ctx, req)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	h.Network, h.Hosts, h.Resolv = att.Path(), att.HostsFile(), att.ResolvFile()
	if h.Network == "" {
		h.Network = bundle.HostNetwork
	}
	return &connection{Attachment: att, networks: ns, id: string(rec.ID)}, nil
}

func networkRequest(rec *container.Record, choice network.Choice) (network.Request, error) {
	req := network.Request{ID: string(rec.ID), Name: rec.Name, Hostname: rec.Hostname, Network: choice, DNSSearch: rec.DNSSearch, DNSOptions: rec.DNSOptions}
	for _, p := range rec.Ports {
		ports, err := network.ParsePorts(p)
		if err != nil {
			return req, err
		}
		req.Ports = append(req.Ports, ports...)
	}
	for _, d := range rec.DNS {
		addr, err := netip.ParseAddr(d)
		if err != nil {
			return req, fmt.Errorf("name server %q: %w: %w", d, err, fs.ErrInvalid)
		}
		req.DNS = append(req.DNS, addr)
	}
	for _, text := range rec.Hosts {
		host, err := network.ParseHost(text)
		if err != nil {
			return req, err
		}
		req.Hosts = append(req.Hosts, host)
	}
	return req, nil
}

// linkContainers finds the containers that one knows by names of its own.
func (a *app) linkContainers(ctx context.Context, rec *container.Record, req *network.Request) error {
	for _, text := range rec.Links {
		name, alias, ok := strings.Cut(text, ":")
		_, other, err := a.container(ctx, name)
		if err != nil {
			return err
		}
		if !ok {
			alias = other.Name
		}
		req.Links = append(req.Links, network.Link{ID: string(other.ID), Alias: alias})
	}
	return nil
}
