package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/network"
	"github.com/spf13/cobra"
)

func newPortCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "port CONTAINER [PORT[/PROTOCOL]]",
		Short:             "Show where ports of a container are published",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeContainers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.container(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			ports, err := publishedPorts(c)
			if err != nil {
				return err
			}
			want := ""
			if len(args) > 1 {
				if want = args[1]; !strings.Contains(want, "/") {
					want += "/tcp"
				}
			}
			found := false
			for _, p := range ports {
				inside := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
				line := hostPort(p)
				if want == "" {
					line = inside + " -> " + line
				} else if inside != want {
					continue
				}
				found = true
				if _, err := fmt.Fprintln(a.stdout, line); err != nil {
					return err
				}
			}
			if want != "" && !found {
				return fmt.Errorf("container %s publishes no port %s", c.Name, want)
			}
			return nil
		},
	}
}

// publishedPorts are the ports of a container that runs, with the numbers that they have
// on this machine.
func publishedPorts(c *container.Container) ([]network.PortMapping, error) {
	if !c.State.Active() || len(c.State.Network) == 0 {
		return nil, nil
	}
	var rec network.Record
	if err := json.Unmarshal(c.State.Network, &rec); err != nil {
		return nil, fmt.Errorf("network of container %s: %w", c.Name, err)
	}
	return rec.Ports, nil
}

func hostPort(p network.PortMapping) string {
	ip := p.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(ip, p.HostPort).String()
}

// portsText is what ps shows of ports.
func portsText(c *container.Container) string {
	ports, err := publishedPorts(c)
	if err != nil {
		return ""
	}
	var out []string
	for _, p := range ports {
		out = append(out, hostPort(p)+"->"+strconv.Itoa(int(p.ContainerPort))+"/"+string(p.Protocol))
	}
	return strings.Join(out, ", ")
}
