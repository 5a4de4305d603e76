package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/bundle"
	"github.com/layerfs/layerfs/runtime/external"
	"github.com/layerfs/layerfs/runtime/network"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// dryRun is what run would do.
type dryRun struct {
	Steps  []string          `json:"steps"`  // in order
	Record *container.Record `json:"record"` // of the container
	Spec   *specs.Spec       `json:"spec"`   // that it would be started with, but for its network
}

// runDry prints what run would do, without making a container, a volume or a network. The
// image is mounted for it, on a snapshot that is removed again, since users are looked up
// in it.
func (a *app) runDry(ctx context.Context, o *createOptions, out outputFlags, word string, command []string) error {
	if err := a.enter(); err != nil {
		return err
	}
	s, err := a.store(ctx)
	if err != nil {
		return err
	}
	drivers, err := a.candidates(o.driver)
	if err != nil {
		return err
	}
	rec, opts, err := a.recordFor(ctx, o, word, command)
	if err != nil {
		return err
	}
	if rec.Name == "" {
		rec.Name = rec.ID.Short()
	}
	key := snapshot.Key(rec.Snapshot)
	d := &dryRun{Record: rec}
	if rec.Owned {
		d.add("make a writable snapshot of image " + rec.Image)
		opts.Ephemeral = true
		if _, err := s.Prepare(ctx, key, opts); err != nil {
			return err
		}
	} else {
		d.add("take snapshot " + rec.Snapshot)
	}
	err = a.planOn(ctx, s, drivers, key, d)
	if rec.Owned {
		err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), key))
	}
	if err != nil {
		return err
	}
	return printOne(a.stdout, out, d, func(w io.Writer) error {
		for _, step := range d.Steps {
			if _, err := fmt.Fprintln(w, step); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *dryRun) add(steps ...string) { d.Steps = append(d.Steps, steps...) }

// planOn adds the steps of a start on a snapshot.
func (a *app) planOn(ctx context.Context, s *snapshot.Store, drivers []candidate, key snapshot.Key, d *dryRun) (err error) {
	unlock, err := s.Claim(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	rec := d.Record
	m, err := a.openMount(ctx, s, drivers, key, rec.ReadOnly && !rec.Owned)
	if err != nil {
		return err
	}
	defer join(&err, m.Close)
	mounted, ok := m.(detached)
	if !ok {
		return fmt.Errorf("plan container: the driver gives no detached mounts: %w", errors.ErrUnsupported)
	}
	d.add("mount it, attached nowhere")
	root := runtime.RootFD(mounted.FD())
	host, err := a.bundleHost(ctx, rec)
	if err != nil {
		return err
	}
	there := host.Volume
	host.Volume = func(name string) (string, error) {
		dir, err := there(name)
		if errors.Is(err, fs.ErrNotExist) {
			d.add("make volume " + name)
			return a.disk.Root(), nil // a directory that is there, in its place
		}
		return dir, err
	}
	choice, err := network.ParseNetwork(rec.Networks)
	if err != nil {
		return err
	}
	if choice.Mode == network.ModeHost {
		host.Network = bundle.HostNetwork
	}
	d.addNetwork(choice)
	if rec.PID != "" {
		return usageError{errors.New("--dry-run and --pid exclude each other: sharing processes takes a control group, which a plan does not make")}
	}
	if d.Spec, err = bundle.Spec(rec, root, host); err != nil {
		return err
	}
	fitNamespace(d.Spec, a.ids)
	limits, err := json.Marshal(rec.Resources)
	if err != nil {
		return err
	}
	group := "make control group " + a.cgroupParent() + "/" + rec.ID.Short()
	if rec.Resources != nil {
		group += " with the limits " + string(limits)
	}
	d.add(group)
	if rec.Runtime != "" {
		if err := external.Fit(d.Spec, nil, nil); err != nil {
			return err
		}
		for _, step := range []string{"create --bundle " + filepath.Join(a.disk.Root(), "containers", string(rec.ID)), "start", "delete"} {
			d.add(rec.Runtime + " " + step + " " + rec.ID.Short())
		}
		return nil
	}
	steps, err := runtime.Plan(ctx, runtime.Config{Spec: d.Spec, Root: root, Logger: a.logger()})
	d.add(steps...)
	return err
}

// addNetwork adds what a container's network takes.
func (d *dryRun) addNetwork(choice network.Choice) {
	rec := d.Record
	switch {
	case choice.Mode == network.ModeNone:
		d.add("make a network namespace without a connection")
	case choice.Mode == network.ModeHost:
		d.add("stay in the network of this machine")
	case choice.Mode == network.ModeContainer:
		d.add("join the network of container " + choice.Container)
	case len(rec.Networks) == 0:
		d.add("connect it with the default network")
	default:
		d.add("connect it with " + strings.Join(rec.Networks, " and "))
	}
	for _, p := range rec.Ports {
		d.add("publish port " + p)
	}
}
