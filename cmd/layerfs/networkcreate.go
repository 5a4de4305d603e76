package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/network"
	"github.com/spf13/cobra"
)

type networkCreateOptions struct {
	driver            string
	subnets, gateways []string
	ipv6, internal    bool
	labels, opts      []string
}

func newNetworkCreateCmd(a *app) *cobra.Command {
	var o networkCreateOptions
	cmd := &cobra.Command{
		Use:   "create [flags] NETWORK",
		Short: "Make a network",
		Example: `  layerfs network create app
  layerfs network create --ipv6 --subnet 192.0.2.0/24 --internal backend`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runNetworkCreate(cmd.Context(), o, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.driver, "driver", "d", "bridge", "kind of network; there is only bridge")
	f.StringArrayVar(&o.subnets, "subnet", nil, "subnet, of IPv4 or IPv6 (default: one that is free; repeatable)")
	f.StringArrayVar(&o.gateways, "gateway", nil, "address of this machine in it (default: the first; repeatable)")
	f.BoolVar(&o.ipv6, "ipv6", false, "give containers IPv6 addresses too")
	f.BoolVar(&o.internal, "internal", false, "give containers no way out of it")
	f.StringArrayVar(&o.labels, "label", nil, "label of the network, KEY=VALUE (repeatable)")
	f.StringArrayVarP(&o.opts, "opt", "o", nil, "mtu=BYTES")
	return cmd
}

func (a *app) runNetworkCreate(ctx context.Context, o networkCreateOptions, name string) error {
	spec, err := o.spec(name)
	if err != nil {
		return err
	}
	return a.withNetworks(ctx, func(n *network.Networks) error {
		nw, err := n.Create(ctx, spec)
		if err == nil {
			_, err = fmt.Fprintln(a.stdout, nw.ID)
		}
		return err
	})
}

func (o *networkCreateOptions) spec(name string) (network.Spec, error) {
	s := network.Spec{Name: name, EnableIPv6: o.ipv6, Internal: o.internal}
	if o.driver != "bridge" {
		return s, usageError{fmt.Errorf("--driver %q: there is only bridge", o.driver)}
	}
	for _, text := range o.subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return s, usageError{fmt.Errorf("--subnet %q: want ADDRESS/BITS", text)}
		}
		at := &s.IPv4
		if p.Addr().Is6() {
			at = &s.IPv6
		}
		if at.IsValid() {
			return s, usageError{fmt.Errorf("--subnet %s: a network has one of IPv4 and one of IPv6", text)}
		}
		*at = p
	}
	for _, text := range o.gateways {
		g, err := netip.ParseAddr(text)
		if err != nil {
			return s, usageError{fmt.Errorf("--gateway %q: want an address", text)}
		}
		at := &s.Gateway4
		if g.Is6() {
			at = &s.Gateway6
		}
		if at.IsValid() {
			return s, usageError{fmt.Errorf("--gateway %s: a network has one of IPv4 and one of IPv6", text)}
		}
		*at = g
	}
	var err error
	if s.Labels, err = parseLabels(o.labels); err != nil {
		return s, err
	}
	for _, opt := range o.opts {
		key, value, _ := strings.Cut(opt, "=")
		if key != "mtu" && key != "com.docker.network.driver.mtu" {
			return s, usageError{fmt.Errorf("--opt %q: only mtu=BYTES is known", opt)}
		}
		if s.MTU, err = strconv.Atoi(value); err != nil {
			return s, usageError{fmt.Errorf("--opt %q: want a number of bytes", opt)}
		}
	}
	return s, nil
}

func newNetworkRmCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NETWORK...",
		Aliases:           []string{"remove"},
		Short:             "Remove networks that no container is in",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeNetworks(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			return a.withNetworks(cmd.Context(), func(n *network.Networks) error {
				var errs []error
				for _, name := range args {
					err := hint(n.Remove(cmd.Context(), name), networksHint)
					if errors.Is(err, network.ErrInUse) {
						err = fmt.Errorf(`%w; "layerfs network inspect %s" lists them`, err, name)
					}
					if err == nil {
						_, err = fmt.Fprintln(a.stdout, name)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
}

func newNetworkPruneCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "prune",
		Short: "Remove all networks that no container is in, but the default one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			return a.withNetworks(cmd.Context(), func(n *network.Networks) error {
				removed, err := n.Prune(cmd.Context())
				for _, name := range removed {
					fmt.Fprintln(a.stdout, name)
				}
				return err
			})
		},
	}
}
