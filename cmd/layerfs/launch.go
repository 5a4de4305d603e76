package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/bundle"
	"github.com/layerfs/layerfs/runtime/container/monitor"
	"github.com/layerfs/layerfs/runtime/external"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// detached is a mount that can be handed to a container without being attached here.
type detached interface{ FD() int }

// launch mounts what a container stands on and starts its process: it is what a monitor
// calls for every start.
func (a *app) launch(ctx context.Context, rec *container.Record, streams [3]*os.File) (_ *monitor.Started, err error) {
	s, err := a.store(ctx)
	if err != nil {
		return nil, err
	}
	var undo []func() error
	ended := func(context.Context) error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		undo = nil
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ended(ctx))
		}
	}()
	drivers, err := a.candidates(rec.Driver)
	if err != nil {
		return nil, err
	}
	key, err := snapshot.ParseKey(rec.Snapshot)
	if err != nil {
		return nil, err
	}
	unlock, err := s.Claim(ctx, key)
	if err != nil {
		return nil, err
	}
	// From here on the snapshot is in use until the mount has gone, which nobody else
	// can see: it is in the container's mount namespace only.
	use, err := s.Use(key)
	unlock()
	if err != nil {
		return nil, err
	}
	undo = append(undo, use.Close)
	m, err := a.openMount(ctx, s, drivers, key, rec.ReadOnly && !rec.Owned)
	if err != nil {
		return nil, err
	}
	undo = append(undo, m.Close)
	d, ok := m.(detached)
	if !ok {
		return nil, fmt.Errorf("start container: the driver gives no detached mounts: %w", errors.ErrUnsupported)
	}
	root := runtime.RootFD(d.FD())
	host, err := a.bundleHost(ctx, rec)
	if err != nil {
		return nil, err
	}
	out := &monitor.Started{Ended: ended}
	att, err := a.attachNetwork(ctx, rec, &host)
	if err != nil {
		return nil, err
	}
	if att != nil {
		undo = append(undo, att.end)
		if out.Network, err = json.Marshal(att.Record()); err != nil {
			return nil, err
		}
	}
	if err := a.fillVolumes(ctx, rec, d.FD()); err != nil {
		return nil, err
	}
	processes, err := a.shareProcesses(ctx, rec, &host)
	if err != nil {
		return nil, err
	}
	if processes != nil {
		defer join(&err, processes.Close)
	}
	spec, err := bundle.Spec(rec, root, host)
	if err != nil {
		return nil, err
	}
	fitNamespace(spec, a.ids)
	group, err := a.openCgroup(ctx, rec)
	if err != nil {
		return nil, err
	}
	if group != nil {
		undo = append(undo, func() error {
			ctx := context.WithoutCancel(ctx)
			if rec.PID == "" {
				return group.Remove(ctx)
			}
			// There is no namespace of its own whose end would have ended all its processes.
			return errors.Join(group.Kill(ctx), group.Remove(ctx))
		})
		out.Cgroup = group.Path()
		out.OutOfMemory = func() bool {
			s, err := group.Stats()
			return err == nil && s.Memory.OOMKills > 0
		}
	}
	rt := a.external(rec)
	if rt != nil {
		if out.Process, err = a.startExternal(ctx, rt, rec, spec, group, d.FD(), streams); err != nil {
			return nil, err
		}
		undo = append(undo, func() error { return rt.Delete(context.WithoutCancel(ctx)) })
	} else if out.Process, err = a.startBuiltIn(ctx, rec, spec, group, root, streams); err != nil {
		return nil, err
	}
	if att != nil {
		att.serve(ctx, a.logger())
	}
	if rec.Health != nil {
		self, unknown := container.Identify(out.Process.Pid())
		out.Check = func(ctx context.Context, command []string) (int, string, error) {
			if unknown != nil { // it has ended, and another may get its number
				return 0, "", unknown
			}
			return a.check(ctx, rt, spec, self, group, command)
		}
	}
	return out, nil
}

// startBuiltIn starts the process of a container.
func (a *app) startBuiltIn(ctx context.Context, rec *container.Record, spec *specs.Spec, group *cgroup.Group, root runtime.Root, streams [3]*os.File) (monitor.Process, error) {
	if err := a.writeSpec(rec, spec); err != nil {
		return nil, err
	}
	var points newMountPoints
	p, err := runtime.Start(ctx, runtime.Config{Spec: spec, Root: root, Stdin: streams[0], Stdout: streams[1], Stderr: streams[2], Cgroup: group,
		Made: points.add, Logger: a.logger()})
	a.noteMountPoints(ctx, rec, points)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (a *app) writeSpec(rec *container.Record, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return a.ctrs.WriteSpec(rec.ID, data)
}

// cgroupParent is the control group below which those of this store's containers are: a
// collector can tell them from those of other stores.
func (a *app) cgroupParent() string {
	const digits = 12
	sum := sha256.Sum256([]byte(a.disk.Root()))
	return "layerfs/" + hex.EncodeToString(sum[:])[:digits]
}

// openCgroup makes the control group of a container and applies its limits, and for root
// those of devices, which a container could else make nodes of and use. Without
// permission to make a group there is none, unless limits were asked for.
func (a *app) openCgroup(ctx context.Context, rec *container.Record) (*cgroup.Group, error) {
	group, err := cgroup.Open(ctx, cgroup.Options{Path: a.cgroupParent() + "/" + string(rec.ID)})
	if err != nil {
		if a.ids == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
		if rec.PID != "" {
			return nil, fmt.Errorf("container %s: to share processes takes a control group, which tells its own from the others and which this user was not given the right to make: %w", rec.Name, err)
		}
		if rec.Resources != nil {
			return nil, fmt.Errorf("container %s: its limits take a control group, which this user was not given the right to make: %w", rec.Name, err)
		}
		a.logger().Debug("container has no control group", "error", err)
		return nil, nil
	}
	limits, err := a.limitsOf(rec)
	if err == nil {
		err = errors.Join(group.Apply(limits)...)
	}
	if err != nil {
		return nil, errors.Join(err, group.Remove(ctx))
	}
	return group, nil
}

// limitsOf are the limits of a container's control group.
func (a *app) limitsOf(rec *container.Record) (_ *specs.LinuxResources, err error) {
	limits := specs.LinuxResources{}
	if rec.Resources != nil {
		limits = *rec.Resources
	}
	if a.ids == nil { // in a user namespace no device can be used through a node that was made there
		if rec.Privileged {
			limits.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
			return &limits, nil
		}
		limits.Devices, err = deviceRules(rec.Devices)
	}
	return &limits, err
}

// deviceRules allow a container the usual devices and those that it was given.
func deviceRules(devices []container.Device) ([]specs.LinuxDeviceCgroup, error) {
	rules := append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, cgroup.DefaultDevices()...)
	given, err := bundle.Devices(devices)
	if err != nil {
		return nil, err
	}
	for i, d := range given {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &given[i].Major, Minor: &given[i].Minor, Access: devices[i].Access})
	}
	return rules, nil
}

// check runs a command in the container of a process to see how it does.
func (a *app) check(ctx context.Context, rt *external.Runtime, spec *specs.Spec, in container.Proc, group *cgroup.Group, command []string) (code int, output string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	process := *spec.Process
	process.Args, process.Terminal = command, false
	p, err := startExec(ctx, rt, runtime.ExecConfig{Pid: in.Pid, Verify: in.Verify, Process: &process, Stdout: w, Stderr: w, Seccomp: spec.Linux.Seccomp, Cgroup: group, Logger: a.logger()})
	if err = errors.Join(err, w.Close()); err != nil {
		return 0, "", errors.Join(err, r.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(syscall.SIGKILL) }) // it has ended already
	defer stop()
	const most = 4096
	text, rerr := io.ReadAll(io.LimitReader(r, most))
	if rerr == nil {
		_, rerr = io.Copy(io.Discard, r)
	}
	st, err := p.Wait()
	return st.ExitCode, string(text), errors.Join(rerr, err, r.Close(), p.Close())
}

// bundleHost is what the specification of a container needs of this machine.
func (a *app) bundleHost(ctx context.Context, rec *container.Record) (bundle.Host, error) {
	vs, err := a.volumes(ctx)
	if err != nil {
		return bundle.Host{}, err
	}
	h := bundle.Host{Devices: a.ids == nil, Volume: func(name string) (string, error) {
		_, err := vs.Stat(name)
		return vs.Dir(name), err
	}}
	if rec.Init {
		if h.Init, err = programPath(); err != nil {
			return h, fmt.Errorf("find the program that is to be the init: %w", err)
		}
	}
	return h, nil
}
