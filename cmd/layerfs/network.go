package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/layerfs/layerfs/runtime/network"
	"github.com/spf13/cobra"
)

const networksHint = `"layerfs network ls" lists the names`

func newNetworkCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Manage the networks of containers",
		Long: `Containers are on the network "bridge" unless run is told otherwise: they reach each
other by address, and the rest of the world. On a network of your own making they also
reach each other by name, and containers of other networks do not reach them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newNetworkLsCmd(a), newNetworkCreateCmd(a), newNetworkRmCmd(a), newNetworkPruneCmd(a),
		newNetworkInspectCmd(a), newNetworkConnectCmd(a), newNetworkDisconnectCmd(a))
	return cmd
}

// withNetworks calls do with the networks of the store.
func (a *app) withNetworks(ctx context.Context, do func(*network.Networks) error) error {
	n, err := a.networks(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(n), n.Close())
}

func (a *app) networkNames(ctx context.Context) []string {
	var out []string
	err := a.withNetworks(ctx, func(n *network.Networks) error {
		all, err := n.List(ctx)
		for _, nw := range all {
			out = append(out, nw.Name)
		}
		return err
	})
	if err != nil {
		return nil
	}
	return out
}

func (a *app) completeNetworks(max int) completion { return a.completeWith(max, a.networkNames) }

// networkRow is what is printed of a network.
type networkRow struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	Bridge     string            `json:"bridge"`
	Subnets    []string          `json:"subnets"`
	Internal   bool              `json:"internal"`
	Containers int               `json:"containers"`
	Labels     map[string]string `json:"labels,omitempty"`
	Created    time.Time         `json:"created"`
}

func subnets(nw *network.Network) []string {
	var out []string
	for _, p := range []netip.Prefix{nw.IPv4, nw.IPv6} {
		if p.IsValid() {
			out = append(out, p.String())
		}
	}
	return out
}

func newNetworkLsCmd(a *app) *cobra.Command {
	var o outputFlags
	var full bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long: `Ls lists networks. The default one, bridge, is there once a container was on it; host and
none are no networks but ways to have the host's or none.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withNetworks(cmd.Context(), func(n *network.Networks) error { return a.runNetworkLs(cmd.Context(), n, o, full) })
		},
	}
	o.add(cmd, "each network", "print ids only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "print ids whole")
	return cmd
}

func (a *app) runNetworkLs(ctx context.Context, n *network.Networks, o outputFlags, full bool) error {
	all, err := n.List(ctx)
	if err != nil {
		return err
	}
	var rows []networkRow
	for _, nw := range all {
		members, err := n.Members(ctx, nw.Name)
		if err != nil {
			return err
		}
		rows = append(rows, networkRow{Name: nw.Name, ID: nw.ID, Bridge: nw.Bridge, Subnets: subnets(nw), Internal: nw.Internal,
			Containers: len(members), Labels: nw.Labels, Created: nw.Created})
	}
	id := func(r networkRow) string {
		if full {
			return r.ID
		}
		return short(r.ID)
	}
	now := time.Now()
	return printRows(a.stdout, o, rows, id, []column[networkRow]{
		{"NAME", func(r networkRow) string { return r.Name }},
		{"ID", id},
		{"SUBNET", func(r networkRow) string { return strings.Join(r.Subnets, ", ") }},
		{"BRIDGE", func(r networkRow) string { return r.Bridge }},
		{"CONTAINERS", func(r networkRow) string { return itoa(r.Containers) }},
		{"CREATED", func(r networkRow) string { return ago(r.Created, now) }},
	})
}

func newNetworkInspectCmd(a *app) *cobra.Command {
	var o outputFlags
	cmd := &cobra.Command{
		Use:               "inspect NETWORK...",
		Short:             "Print networks and who is in them, as JSON",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeNetworks(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withNetworks(cmd.Context(), func(n *network.Networks) error { return a.runNetworkInspect(cmd.Context(), n, o, args) })
		},
	}
	o.addFormat(cmd, "f", formatJSON, `"json", or a Go template applied to each network`)
	return cmd
}

// networkDetails is what inspect prints.
type networkDetails struct {
	*network.Network
	Containers []networkMember `json:"containers"`
}

type networkMember struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	network.Membership
}

func (a *app) runNetworkInspect(ctx context.Context, n *network.Networks, o outputFlags, words []string) error {
	var out []networkDetails
	var errs []error
	for _, word := range words {
		nw, err := n.Lookup(ctx, word)
		if err != nil {
			errs = append(errs, hint(err, networksHint))
			continue
		}
		members, err := n.Members(ctx, nw.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d := networkDetails{Network: nw, Containers: []networkMember{}}
		for _, rec := range members {
			for _, m := range rec.Networks {
				if m.Network == nw.Name {
					d.Containers = append(d.Containers, networkMember{ID: rec.ID, Name: rec.Name, Membership: m})
				}
			}
		}
		out = append(out, d)
	}
	return errors.Join(append([]error{printRows(a.stdout, o, out, nil, nil)}, errs...)...)
}
