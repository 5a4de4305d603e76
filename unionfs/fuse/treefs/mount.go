package treefs

import (
	"context"
	"errors"
	"fmt"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/unionfs/fuse/internal/conn"
)

// Command is the first argument of a process that serves a tree. A program that mounts
// trees calls [Serve] when it is its own.
const Command = "tree-server"

// Mounter mounts trees, each with a server that is a process of its own.
type Mounter struct {
	// Log is a file to which servers append what they have to say; "" drops it.
	Log string
	// Owners are the ids that files can have in the namespace that mounts.
	Owners Owners
}

// Mount mounts a tree, detached. Its server ends when the mount does, that is with the
// last of all unions that use it. The caller closes the mount.
func (m Mounter) Mount(ctx context.Context, o Options) (_ *mountapi.Mount, err error) {
	o.Owners = m.Owners
	// Users in the namespaces below come to the mount through the union.
	mount, err := conn.Open(ctx, conn.MountOptions{ReadOnly: true, AllowOther: true})
	if err != nil {
		return nil, fmt.Errorf("mount tree: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, mount.Close())
		}
	}()
	minor, err := conn.Minor(mountapi.FdPath(mount.FD()))
	if err == nil {
		err = conn.Spawn(ctx, conn.Program{Args: []string{Command}, Log: m.Log}, mount.Device, minor, o)
	}
	if err = errors.Join(err, mount.Device.Close()); err != nil {
		return nil, fmt.Errorf("mount tree %s: %w", o.Tree, err)
	}
	return mount.Mount, nil
}

// Serve is what a process with [Command] as its first argument does. It returns when the
// mount has ended.
func Serve() error {
	var o Options
	in, err := conn.Inherit(&o)
	if err != nil {
		return err
	}
	f, err := New(o)
	if err != nil {
		return in.Fail(err)
	}
	err = in.Serve(f, mountOptions())
	return errors.Join(err, f.Close())
}
