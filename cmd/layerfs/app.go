package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/layerfs/layerfs/cas/disk"
	"github.com/layerfs/layerfs/image"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
)

// app is what every command shares: where it talks, and the store, opened by the first
// that needs it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	root    string // --root
	verbose bool

	disk  *disk.Store
	snaps *snapshot.Store
	imgs  *image.Store
	now   func() time.Time // SOURCE_DATE_EPOCH when that is set, else nil
}

func newRootCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "layerfs",
		Short: "Store, mount, change, commit and run container image layers",
		Long: `layerfs keeps every file of every image layer once, mounts any stack of layers in
constant time, records what was changed as a new layer, and runs isolated processes
on the result. It needs no daemon.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.SetIn(a.stdin)
	cmd.SetOut(a.stdout)
	cmd.SetErr(a.stderr)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := cmd.PersistentFlags()
	f.StringVar(&a.root, "root", "", "directory of the store (default "+`$LAYERFS_ROOT, else /var/lib/layerfs for root and $XDG_DATA_HOME/layerfs for others)`)
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say on standard error what is done")
	cobra.CheckErr(cmd.MarkPersistentFlagDirname("root"))
	cmd.AddGroup(
		&cobra.Group{ID: "image", Title: "Images:"},
		&cobra.Group{ID: "snapshot", Title: "Snapshots and mounts:"},
		&cobra.Group{ID: "store", Title: "The store:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("image", newLoadCmd(a), newSaveCmd(a), newImportCmd(a), newExportCmd(a), newImagesCmd(a), newInspectCmd(a),
		newHistoryCmd(a), newTagCmd(a), newRmiCmd(a), newLsCmd(a), newCatCmd(a))
	add("snapshot", newMountCmd(a), newUmountCmd(a), newDiffCmd(a), newCommitCmd(a), newForkCmd(a), newResetCmd(a),
		newSnapshotsCmd(a), newRunCmd(a))
	add("store", newDfCmd(a), newGcCmd(a), newFsckCmd(a), newInfoCmd(a), newDemoCmd(a))
	cmd.AddCommand(newVersionCmd(a), newExitCodesCmd())
	for _, c := range cmd.Commands() {
		wrapArgs(c)
	}
	return cmd
}

// wrapArgs makes a wrong number of arguments a usage error.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w\nUsage: %s", err, cmd.UseLine())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// storeRoot returns the directory of the store.
func (a *app) storeRoot() (string, error) {
	if a.root != "" {
		return filepath.Abs(a.root)
	}
	if r := os.Getenv("LAYERFS_ROOT"); r != "" {
		return filepath.Abs(r)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/layerfs", nil
	}
	if x := os.Getenv("XDG_DATA_HOME"); x != "" {
		return filepath.Join(x, "layerfs"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the store: %w; give one with --root", err)
	}
	return filepath.Join(home, ".local", "share", "layerfs"), nil
}

func (a *app) logger() *slog.Logger {
	if !a.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// store opens the layer graph; the app closes it.
func (a *app) store(ctx context.Context) (*snapshot.Store, error) {
	if a.snaps != nil {
		return a.snaps, nil
	}
	root, err := a.storeRoot()
	if err != nil {
		return nil, err
	}
	if a.disk, err = disk.Open(ctx, root, disk.Options{Logger: a.logger()}); err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	if a.now, err = sourceDate(); err != nil {
		return nil, err
	}
	a.snaps, err = snapshot.New(a.disk, snapshot.Options{Logger: a.logger(), Now: a.now})
	return a.snaps, err
}

func (a *app) close() error {
	if a.disk == nil {
		return nil
	}
	return a.disk.Close()
}

// sourceDate returns a clock that stands at SOURCE_DATE_EPOCH when that is set, as
// reproducible builds want it, else nil.
func sourceDate() (func() time.Time, error) {
	v := os.Getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return nil, nil
	}
	sec, err := parseInt(v)
	if err != nil {
		return nil, usageError{fmt.Errorf("SOURCE_DATE_EPOCH=%q is not a number of seconds", v)}
	}
	t := time.Unix(sec, 0).UTC()
	return func() time.Time { return t }, nil
}

// short cuts the hexadecimal part of a digest to the twelve digits that people read.
func short(d string) string {
	_, hex, ok := strings.Cut(d, ":")
	if !ok {
		hex = d
	}
	if len(hex) > 12 {
		hex = hex[:12]
	}
	return hex
}

// join adds the error of closing something to the one that is there.
func join(err *error, close func() error) { *err = errors.Join(*err, close()) }
