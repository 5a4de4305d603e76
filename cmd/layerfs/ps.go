package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

// psRow is what is printed of a container, with Docker's names.
type psRow struct {
	ID         string    `json:"ID"`
	Names      string    `json:"Names"`
	Image      string    `json:"Image"`
	Command    string    `json:"Command"`
	CreatedAt  time.Time `json:"CreatedAt"`
	RunningFor string    `json:"RunningFor"`
	State      string    `json:"State"`
	Status     string    `json:"Status"`
	ExitCode   int       `json:"ExitCode"`
	Pid        int       `json:"Pid,omitempty"`
	Ports      string    `json:"Ports"`
	Labels     string    `json:"Labels"`
	Mounts     string    `json:"Mounts"`

	labels map[string]string
}

// Label returns the value of a label, for templates.
func (r psRow) Label(name string) string { return r.labels[name] }

type psOptions struct {
	output  outputFlags
	all     bool
	full    bool
	last    int
	latest  bool
	filters []string
}

func newPsCmd(a *app) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:   "ps [flags]",
		Short: "List containers, those that run unless -a is given",
		Long: `Ps lists containers, newest first. Filters are id=, name=, status=, exited=CODE,
label=KEY[=VALUE], ancestor=IMAGE, volume=NAME|TARGET and health=; of several with one
name one must fit, of several names all.`,
		Example: `  layerfs ps -a --filter status=exited --format '{{.Names}} {{.ExitCode}}'`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runPs(cmd.Context(), o) },
	}
	o.output.add(cmd, "each container", "print ids only")
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "list those that do not run, too")
	f.BoolVar(&o.full, "no-trunc", false, "print everything whole")
	f.IntVarP(&o.last, "last", "n", -1, "list the last made, whether they run or not")
	f.BoolVarP(&o.latest, "latest", "l", false, "list the one made last")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "list only those that fit NAME=VALUE (repeatable)")
	return cmd
}

func (a *app) runPs(ctx context.Context, o psOptions) error {
	fits, all, err := parsePsFilters(o.filters)
	if err != nil {
		return err
	}
	if o.latest {
		o.last = 1
	}
	s, err := a.containers(ctx)
	if err != nil {
		return err
	}
	var list []*container.Container
	err = s.Walk(ctx, func(c *container.Container) error {
		if (c.State.Active() || o.all || all || o.last > 0) && fits(c) {
			list = append(list, c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(list, func(x, y *container.Container) int { return y.Created.Compare(x.Created) })
	if o.last > 0 {
		list = list[:min(len(list), o.last)]
	}
	now := time.Now()
	rows := make([]psRow, len(list))
	for i, c := range list {
		rows[i] = psRowOf(c, now, o.full)
	}
	return printRows(a.stdout, o.output, rows, func(r psRow) string { return r.ID }, []column[psRow]{
		{"CONTAINER ID", func(r psRow) string { return r.ID }},
		{"IMAGE", func(r psRow) string { return r.Image }},
		{"COMMAND", func(r psRow) string { return r.Command }},
		{"CREATED", func(r psRow) string { return r.RunningFor }},
		{"STATUS", func(r psRow) string { return r.Status }},
		{"PORTS", func(r psRow) string { return r.Ports }},
		{"NAMES", func(r psRow) string { return r.Names }},
	})
}

func psRowOf(c *container.Container, now time.Time, full bool) psRow {
	const commandLength = 20 // as in Docker
	command := strings.Join(slices.Concat(c.Entrypoint, c.Command), " ")
	if r := []rune(command); !full && len(r) > commandLength {
		command = string(r[:commandLength-1]) + "…"
	}
	r := psRow{ID: c.ID.Short(), Names: c.Name, Image: c.Image, Command: strconv.Quote(command), CreatedAt: c.Created,
		RunningFor: ago(c.Created, now), State: string(c.State.Status), Status: statusText(c, now), ExitCode: c.State.ExitCode,
		Pid: c.State.Process.Pid, Ports: portsText(c), labels: c.Labels}
	if full {
		r.ID = string(c.ID)
	}
	var labels, mounts []string
	for _, k := range sortedKeys(c.Labels) {
		labels = append(labels, k+"="+c.Labels[k])
	}
	for _, m := range c.Mounts {
		if m.Source != "" {
			mounts = append(mounts, m.Source)
		}
	}
	r.Labels, r.Mounts = strings.Join(labels, ","), strings.Join(mounts, ",")
	return r
}

// statusText is the state as people read it.
func statusText(c *container.Container, now time.Time) string {
	st := &c.State
	since := func(t time.Time) string {
		return strings.TrimSuffix(strings.Replace(ago(t, now), "just now", "less than a minute ago", 1), " ago")
	}
	switch st.Status {
	case container.Running, container.Paused:
		text := "Up " + since(st.Started)
		if st.Health != nil && st.Status == container.Running {
			health := string(st.Health.Status)
			if st.Health.Status == container.HealthStarting {
				health = "health: starting"
			}
			text += " (" + health + ")"
		}
		if st.Status == container.Paused {
			text += " (Paused)"
		}
		if st.Unattended {
			text += " (no monitor)"
		}
		return text
	case container.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, since(st.Finished))
	case container.Exited:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, since(st.Finished))
	case container.Dead:
		return "Dead"
	case container.Created:
	}
	return "Created"
}

// parsePsFilters returns what tells whether a container fits, and whether those that do
// not run are meant as well.
func parsePsFilters(filters []string) (fits func(*container.Container) bool, all bool, err error) {
	byName := map[string][]func(*container.Container) bool{}
	for _, f := range filters {
		name, value, ok := strings.Cut(f, "=")
		if !ok || value == "" {
			return nil, false, usageError{fmt.Errorf("--filter %q: want NAME=VALUE", f)}
		}
		var test func(*container.Container) bool
		switch name {
		case "id":
			test = func(c *container.Container) bool { return strings.HasPrefix(string(c.ID), value) }
		case "name":
			test = func(c *container.Container) bool { return strings.Contains(c.Name, strings.TrimPrefix(value, "/")) }
		case "status":
			all = true
			test = func(c *container.Container) bool { return string(c.State.Status) == value }
		case "exited":
			code, err := strconv.Atoi(value)
			if err != nil {
				return nil, false, usageError{fmt.Errorf("--filter %q: want an exit code", f)}
			}
			all = true
			test = func(c *container.Container) bool {
				return c.State.Status == container.Exited && c.State.ExitCode == code
			}
		case "label":
			key, want, valued := strings.Cut(value, "=")
			test = func(c *container.Container) bool {
				have, ok := c.Labels[key]
				return ok && (!valued || have == want)
			}
		case "ancestor":
			test = func(c *container.Container) bool {
				return c.Image == value || strings.HasPrefix(c.Image, value+":") || strings.HasPrefix(strings.TrimPrefix(c.ImageID, "sha256:"), strings.TrimPrefix(value, "sha256:"))
			}
		case "volume":
			test = func(c *container.Container) bool {
				return slices.ContainsFunc(c.Mounts, func(m container.Mount) bool { return m.Source == value || m.Target == path.Clean(value) })
			}
		case "health":
			test = func(c *container.Container) bool {
				have := "none"
				if c.State.Health != nil {
					have = string(c.State.Health.Status)
				}
				return have == value
			}
		default:
			return nil, false, usageError{fmt.Errorf("--filter %q: want id, name, status, exited, label, ancestor, volume or health", f)}
		}
		byName[name] = append(byName[name], test)
	}
	return func(c *container.Container) bool {
		for _, tests := range byName {
			if !slices.ContainsFunc(tests, func(t func(*container.Container) bool) bool { return t(c) }) {
				return false
			}
		}
		return true
	}, all, nil
}
