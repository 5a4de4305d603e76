package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
	"github.com/spf13/cobra"
)

// volumeRow is what is printed of a volume.
type volumeRow struct {
	Name       string            `json:"name"`
	Mountpoint string            `json:"mountpoint"`
	Created    time.Time         `json:"created"`
	Labels     map[string]string `json:"labels,omitempty"`
	Anonymous  bool              `json:"anonymous,omitempty"`
	Containers []string          `json:"containers"`
}

func newVolumeCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "List, make and remove volumes",
		Long: `A volume is a directory with a name. It outlives the containers that use it, and several
can share it: "layerfs run -v NAME:/dir". An empty one is filled with what the image
has in that place.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var labels []string
	create := &cobra.Command{
		Use: "create [flags] [NAME]", Short: "Make a volume", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runVolumeCreate(cmd.Context(), strings.Join(args, ""), labels)
		},
	}
	create.Flags().StringArrayVarP(&labels, "label", "l", nil, "label, KEY=VALUE (repeatable)")
	var o outputFlags
	var filters []string
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List volumes", Args: cobra.NoArgs,
		Long: `Ls lists volumes. Filters are name=, label=KEY[=VALUE] and dangling=true|false, which no
container needs.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runVolumes(cmd.Context(), o, filters) },
	}
	o.add(ls, "each volume", "print names only")
	ls.Flags().StringArrayVarP(&filters, "filter", "f", nil, "list only those that fit NAME=VALUE (repeatable)")
	inspect := &cobra.Command{
		Use: "inspect VOLUME...", Short: "Print all that is known of volumes, as JSON", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeWith(-1, a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			rows, err := a.volumeRows(cmd.Context(), args)
			if err != nil {
				return err
			}
			return printJSON(a.stdout, rows)
		},
	}
	rm := &cobra.Command{
		Use: "rm VOLUME...", Aliases: []string{"remove"}, Short: "Remove volumes with what is in them", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeWith(-1, a.volumeNames),
	}
	force := rm.Flags().BoolP("force", "f", false, "no error when there is none")
	rm.RunE = func(cmd *cobra.Command, args []string) error { return a.runVolumeRm(cmd.Context(), args, *force) }
	prune := &cobra.Command{
		Use: "prune", Short: "Remove volumes that no container needs", Args: cobra.NoArgs,
		Long: `Prune removes volumes that were made for one container alone and that none needs any
more; with -a all that none needs.`,
	}
	all := prune.Flags().BoolP("all", "a", false, "remove volumes with a name of their own, too")
	prune.Flags().BoolP("force", "f", false, "accepted for the sake of scripts: nothing is asked")
	prune.RunE = func(cmd *cobra.Command, _ []string) error { return a.runVolumePrune(cmd.Context(), *all) }
	cmd.AddCommand(create, ls, inspect, rm, prune)
	return cmd
}

func (a *app) volumeNames(ctx context.Context) []string {
	rows, err := a.volumeRows(ctx, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, r := range rows {
		out = append(out, r.Name)
	}
	return out
}

// volumeRows returns the volumes named, or all.
func (a *app) volumeRows(ctx context.Context, names []string) ([]volumeRow, error) {
	vs, err := a.volumes(ctx)
	if err != nil {
		return nil, err
	}
	users, err := a.volumeUsers(ctx)
	if err != nil {
		return nil, err
	}
	rows := []volumeRow{}
	add := func(v *volume.Volume) error {
		rows = append(rows, volumeRow{v.Name, vs.Dir(v.Name), v.Created, v.Labels, v.Anonymous, append([]string{}, users[v.Name]...)})
		return nil
	}
	if names == nil {
		err := vs.Walk(ctx, func(name string, err error) {
			fmt.Fprintf(a.stderr, "layerfs: volume %s is passed over: %v\n", name, err)
		}, add)
		return rows, err
	}
	for _, name := range names {
		v, err := vs.Stat(name)
		if err != nil {
			return nil, hint(err, `"layerfs volume ls" lists the names`)
		}
		if err := add(v); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (a *app) runVolumes(ctx context.Context, o outputFlags, filters []string) error {
	rows, err := a.volumeRows(ctx, nil)
	if err != nil {
		return err
	}
	for _, f := range filters {
		name, value, ok := strings.Cut(f, "=")
		var fits func(volumeRow) bool
		switch name {
		case "name":
			fits = func(r volumeRow) bool { return strings.Contains(r.Name, value) }
		case "label":
			key, want, valued := strings.Cut(value, "=")
			fits = func(r volumeRow) bool {
				have, ok := r.Labels[key]
				return ok && (!valued || have == want)
			}
		case "dangling":
			fits = func(r volumeRow) bool { return (len(r.Containers) == 0) == (value == "true" || value == "1") }
		default:
			ok = false
		}
		if !ok {
			return usageError{fmt.Errorf("--filter %q: want name=, label= or dangling=", f)}
		}
		rows = slices.DeleteFunc(rows, func(r volumeRow) bool { return !fits(r) })
	}
	now := time.Now()
	return printRows(a.stdout, o, rows, func(r volumeRow) string { return r.Name }, []column[volumeRow]{
		{"NAME", func(r volumeRow) string { return r.Name }},
		{"CREATED", func(r volumeRow) string { return ago(r.Created, now) }},
		{"CONTAINERS", func(r volumeRow) string { return strings.Join(r.Containers, ", ") }},
	})
}

// withVolumes does something while no container comes to need a volume.
func (a *app) withVolumes(ctx context.Context, do func(vs *volume.Store, users map[string][]string) error) (err error) {
	vs, err := a.volumes(ctx)
	if err != nil {
		return err
	}
	release, err := vs.Hold(ctx)
	if err != nil {
		return err
	}
	defer join(&err, release)
	users, err := a.volumeUsers(ctx)
	if err != nil {
		return err
	}
	return do(vs, users)
}

func (a *app) runVolumeCreate(ctx context.Context, name string, labels []string) error {
	v := volume.Volume{Name: name}
	if name == "" {
		v.Name, v.Anonymous = string(container.NewID()), true
	}
	if _, err := volume.ParseName(v.Name); err != nil {
		return err
	}
	var err error
	if v.Labels, err = parseLabels(labels); err != nil {
		return err
	}
	return a.withVolumes(ctx, func(vs *volume.Store, _ map[string][]string) error {
		made, err := vs.Ensure(v)
		if err != nil {
			return err
		}
		if made {
			a.ctrs.EmitEvent(container.Event{Type: "volume", Action: "create", ID: v.Name})
		}
		_, err = fmt.Fprintln(a.stdout, v.Name)
		return err
	})
}

func (a *app) runVolumeRm(ctx context.Context, names []string, force bool) error {
	if err := a.enter(); err != nil {
		return err
	}
	return a.withVolumes(ctx, func(vs *volume.Store, users map[string][]string) error {
		var errs []error
		for _, name := range names {
			err := vs.Remove(name, users[name])
			switch {
			case force && errors.Is(err, fs.ErrNotExist):
				err = nil
			case err == nil:
				a.ctrs.EmitEvent(container.Event{Type: "volume", Action: "destroy", ID: name})
				_, err = fmt.Fprintln(a.stdout, name)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func (a *app) runVolumePrune(ctx context.Context, all bool) error {
	if err := a.enter(); err != nil {
		return err
	}
	return a.withVolumes(ctx, func(vs *volume.Store, users map[string][]string) error {
		var names []string
		err := vs.Walk(ctx, func(string, error) {}, func(v *volume.Volume) error {
			if (all || v.Anonymous) && len(users[v.Name]) == 0 {
				names = append(names, v.Name)
			}
			return nil
		})
		errs := []error{err}
		for _, name := range names {
			err := vs.Remove(name, nil)
			if err == nil {
				_, err = fmt.Fprintln(a.stdout, name)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func newContainerCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "container",
		Short: "Remove containers that have ended",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	prune := &cobra.Command{
		Use: "prune", Short: "Remove all containers that do not run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runContainerPrune(cmd.Context()) },
	}
	prune.Flags().BoolP("force", "f", false, "accepted for the sake of scripts: nothing is asked")
	cmd.AddCommand(prune)
	return cmd
}

func (a *app) runContainerPrune(ctx context.Context) error {
	if err := a.enter(); err != nil {
		return err
	}
	s, err := a.containers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	err = s.Walk(ctx, func(c *container.Container) error {
		if c.State.Active() || c.State.Monitor.Alive() {
			return nil
		}
		err := a.removeContainer(ctx, s, c, false)
		if err == nil {
			_, err = fmt.Fprintln(a.stdout, c.ID)
		}
		errs = append(errs, err)
		return nil
	})
	return errors.Join(append(errs, err)...)
}
