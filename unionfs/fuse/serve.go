package fuse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/layerfs/layerfs/unionfs/fuse/internal/conn"
	"github.com/layerfs/layerfs/unionfs/fuse/internal/union"
)

// A server's memory is mostly its map of the tree, which the kernel can drop. What it
// allocates itself is little, so that it can afford to collect garbage early: requests
// of the largest size have buffers of a mebibyte each.
const (
	memoryLimit = 64 << 20 // bytes beyond which garbage is collected all the time
	gcPercent   = 50
)

// Serve is the whole life of a server process: it takes over what the driver has handed
// to it, serves until the mount has ended, and flushes the upper. What goes wrong with
// single requests is written to log.
func Serve(log io.Writer) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)
	var config union.Config
	in, err := conn.Inherit(&config)
	if err != nil {
		return err
	}
	u, err := union.Open(config, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		return in.Fail(err)
	}
	return errors.Join(in.Serve(u, u.Options()), u.Close())
}

// serve has the mount behind device served, here or by a process.
func (d *Driver) serve(ctx context.Context, device *os.File, minor string, config union.Config, log *slog.Logger) error {
	if !d.opts.InProcess {
		program := conn.Program{Path: d.opts.Program, Args: ServerArgs(), Log: d.opts.Log}
		return errors.Join(conn.Spawn(ctx, program, device, minor, config), device.Close())
	}
	u, err := union.Open(config, log)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	if _, err := conn.Start(device, u, u.Options()); err != nil {
		return errors.Join(err, u.Close())
	}
	return nil
}
