package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/network"
	"github.com/spf13/cobra"
)

func newNetworkConnectCmd(a *app) *cobra.Command {
	var aliases []string
	var ip, ip6 string
	cmd := &cobra.Command{
		Use:               "connect [flags] NETWORK CONTAINER",
		Short:             "Make a running container a member of one more network",
		Long:              `Connect lasts until the container ends; to have it again at its next start, give --network to create or run.`,
		Example:           `  layerfs network connect --alias db app postgres`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeMembership,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			choice := []string{"name=" + args[0]}
			for _, alias := range aliases {
				choice = append(choice, "alias="+alias)
			}
			if ip != "" {
				choice = append(choice, "ip="+ip)
			}
			if ip6 != "" {
				choice = append(choice, "ip6="+ip6)
			}
			c, err := network.ParseNetwork([]string{strings.Join(choice, ",")})
			if err != nil {
				return usageError{err}
			}
			return a.withMember(cmd.Context(), args[1], func(n *network.Networks, id string, ns *os.File) error {
				return hint(n.Connect(cmd.Context(), id, ns, c.Endpoints[0]), networksHint)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&aliases, "alias", nil, "one more name for it in the network (repeatable)")
	f.StringVar(&ip, "ip", "", "IPv4 address to have (default: one that is free)")
	f.StringVar(&ip6, "ip6", "", "IPv6 address to have")
	return cmd
}

func newNetworkDisconnectCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "disconnect NETWORK CONTAINER",
		Short:             "Take a running container out of a network",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeMembership,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			return a.withMember(cmd.Context(), args[1], func(n *network.Networks, id string, ns *os.File) error {
				return hint(n.Disconnect(cmd.Context(), id, ns, args[0]), networksHint)
			})
		},
	}
}

// completeMembership completes a network and then a container.
func (a *app) completeMembership(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeNetworks(1)(cmd, args, word)
	}
	return a.completeContainers(2)(cmd, args, word)
}

// withMember calls do with the id of a container that runs and its network namespace.
func (a *app) withMember(ctx context.Context, word string, do func(n *network.Networks, id string, ns *os.File) error) error {
	_, c, err := a.container(ctx, word)
	if err != nil {
		return err
	}
	if !c.State.Active() || c.State.Process.Pid == 0 {
		return fmt.Errorf("container %s: %w", c.Name, container.ErrNotActive)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.State.Process.Pid))
	if err != nil {
		return fmt.Errorf("container %s: open its network: %w", c.Name, err)
	}
	err = a.withNetworks(ctx, func(n *network.Networks) error { return do(n, string(c.ID), ns) })
	return errors.Join(err, ns.Close())
}
