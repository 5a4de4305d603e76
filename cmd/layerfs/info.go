package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// driverInfo is what info prints of one driver, in the order in which auto tries them.
type driverInfo struct {
	Name     string            `json:"name"`
	OK       bool              `json:"ok"`
	Why      string            `json:"why,omitempty"`
	Features []unionfs.Feature `json:"features,omitempty"`
}

type infoReport struct {
	Version  string       `json:"version"`
	Root     string       `json:"root"`
	ReadOnly string       `json:"readOnly,omitempty"`
	Below    []string     `json:"additionalStores,omitempty"`
	Kernel   string       `json:"kernel"`
	User     int          `json:"uid"`
	Images   int          `json:"images"`
	Snaps    int          `json:"snapshots"`
	Drivers  []driverInfo `json:"drivers"`
}

func newInfoCmd(a *app) *cobra.Command {
	var o outputFlags
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show the store and which drivers can mount here, and why others cannot",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.runInfo(cmd.Context(), o) },
	}
	o.add(cmd, "all of it", "")
	return cmd
}

func (a *app) runInfo(ctx context.Context, o outputFlags) error {
	if err := a.enter(); err != nil {
		return err
	}
	if _, err := a.store(ctx); err != nil {
		return err
	}
	r := infoReport{Version: version, Root: a.disk.Root(), ReadOnly: a.disk.ReadOnly(), User: os.Geteuid(),
		Images: len(a.imageNames(ctx)), Snaps: len(a.snapshotNames(ctx))}
	for _, below := range a.disk.Additional() {
		r.Below = append(r.Below, below.Root())
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		r.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	for _, d := range a.drivers() {
		di := driverInfo{Name: d.Name(), OK: true}
		if err := d.Probe(ctx, a.disk.Root()); err != nil {
			di.OK, di.Why = false, err.Error()
		}
		if f, ok := d.(unionfs.Featurer); ok {
			di.Features = f.Features(ctx, a.disk.Root())
		}
		r.Drivers = append(r.Drivers, di)
	}
	for _, name := range driverNames {
		if err := passedOver(name); err != nil {
			r.Drivers = append(r.Drivers, driverInfo{Name: name, Why: err.Error()})
		}
	}
	return printOne(a.stdout, o, r, r.print)
}

func (r infoReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	line := func(k string, v any) { fmt.Fprintf(w, "%s:\t%v\n", k, v) }
	line("Version", r.Version)
	line("Kernel", r.Kernel)
	line("Store", r.Root)
	if r.ReadOnly != "" {
		line("Read-only", r.ReadOnly)
	}
	for _, dir := range r.Below {
		line("Additional store", dir)
	}
	line("Images", r.Images)
	line("Snapshots", r.Snaps)
	mark := map[bool]string{true: "yes", false: "no"}
	for _, d := range r.Drivers {
		line("Driver "+d.Name, mark[d.OK]+tail(d.Why))
		for _, f := range d.Features {
			if f.Name != unionfs.FeatureDriver {
				line("  "+f.Name, mark[f.OK]+tail(f.Why))
			}
		}
	}
	return w.Flush()
}

func tail(why string) string {
	if why == "" {
		return ""
	}
	return ", " + why
}
