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
	"github.com/layerfs/layerfs/internal/userns"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/spf13/cobra"
)

// app is what every command shares: where it talks, and the store, opened by the first
// that needs it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	root       string   // --root
	additional []string // --additional-store
	verbose    bool

	args   []string           // of the whole program, to execute it anew; nil when it shall not
	cancel context.CancelFunc // ends what is under way; nil when signals are not for it
	caught bool               // a signal calls cancel

	disk  *disk.Store
	snaps *snapshot.Store
	imgs  *image.Store
	ids   *userns.Mapping // of the user namespace that this is the root of; nil in none
	ctrs  *container.Store
	now   func() time.Time // SOURCE_DATE_EPOCH when that is set, else nil
}

// command is one command of the command line.
type command struct {
	group, name string // group of the help
	make        func(*app) *cobra.Command
}

// commands returns all commands.
func commands() []command {
	return []command{
		{"image", "load", newLoadCmd},
		{"image", "save", newSaveCmd},
		{"image", "import", newImportCmd},
		{"image", "export", newExportCmd},
		{"image", "images", newImagesCmd},
		{"image", "inspect", newInspectCmd},
		{"image", "history", newHistoryCmd},
		{"image", "tag", newTagCmd},
		{"image", "rmi", newRmiCmd},
		{"image", "ls", newLsCmd},
		{"image", "cat", newCatCmd},
		{"snapshot", "mount", newMountCmd},
		{"snapshot", "umount", newUmountCmd},
		{"snapshot", "diff", newDiffCmd},
		{"snapshot", "commit", newCommitCmd},
		{"snapshot", "fork", newForkCmd},
		{"snapshot", "reset", newResetCmd},
		{"snapshot", "snapshots", newSnapshotsCmd},
		{"snapshot", "unshare", newUnshareCmd},
		{"container", "run", newRunCmd},
		{"container", "create", newCreateCmd},
		{"container", "start", newStartCmd},
		{"container", "stop", newStopCmd},
		{"container", "restart", newRestartCmd},
		{"container", "kill", newKillCmd},
		{"container", "wait", newWaitCmd},
		{"container", "rm", newRmCmd},
		{"container", "ps", newPsCmd},
		{"container", "logs", newLogsCmd},
		{"container", "exec", newExecCmd},
		{"container", "attach", newAttachCmd},
		{"container", "network", newNetworkCmd},
		{"container", "pause", newPauseCmd},
		{"container", "unpause", newUnpauseCmd},
		{"container", "rename", newRenameCmd},
		{"container", "update", newUpdateCmd},
		{"container", "top", newTopCmd},
		{"container", "stats", newStatsCmd},
		{"container", "port", newPortCmd},
		{"container", "cp", newCpCmd},
		{"container", "events", newEventsCmd},
		{"container", "container", newContainerCmd},
		{"container", "volume", newVolumeCmd},
		{"container", "oci", newOCICmd},
		{"store", "df", newDfCmd},
		{"store", "gc", newGcCmd},
		{"store", "prune", newPruneCmd},
		{"store", "fsck", newFsckCmd},
		{"store", "info", newInfoCmd},
		{"store", "demo", newDemoCmd},
		{"", "version", newVersionCmd},
		{"", "exit-codes", newExitCodesCmd},
	}
}

// newRootCmd returns the command line for the arguments that it is to be called with:
// with only the command that they name, when they plainly name one, because making all
// of them would be a good part of what a short command costs; else with all.
func newRootCmd(a *app, args []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "layerfs",
		Short: "Store, mount, change, commit and run container image layers",
		Long: `layerfs keeps every file of every image layer once, mounts any stack of layers in
constant time, records what was changed as a new layer, and runs isolated processes
on the result. It needs no daemon.`,
		Example: `  layerfs load -i debian.tar                  # from docker save, skopeo, podman
  layerfs mount --name work debian:12 /mnt    # writable, nothing is copied
  layerfs diff work                           # what was changed
  layerfs commit work debian:mine             # as a new layer
  layerfs save -o mine.tar debian:mine        # back to docker, skopeo, podman`,
		DisableFlagsInUseLine: true,
		Version:               version,
		SilenceErrors:         true,
		SilenceUsage:          true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(cmd, args[0])
	}
	cmd.SetIn(a.stdin)
	cmd.SetOut(a.stdout)
	cmd.SetErr(a.stderr)
	cmd.SetArgs(args)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nSee: %s --help", err, cmd.CommandPath())}
	})
	f := cmd.PersistentFlags()
	f.StringVar(&a.root, "root", "", "directory of the store (default "+`$LAYERFS_ROOT, else /var/lib/layerfs for root and $XDG_DATA_HOME/layerfs for others)`)
	f.StringArrayVar(&a.additional, "additional-store", nil, "store below this one, whose images are used and which is never changed (repeatable; default $"+additionalEnv+", separated by colons)")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say on standard error what is done")
	cobra.CheckErr(errors.Join(cmd.MarkPersistentFlagDirname("root"), cmd.MarkPersistentFlagDirname("additional-store")))
	cmd.AddGroup(
		&cobra.Group{ID: "image", Title: "Images:"},
		&cobra.Group{ID: "snapshot", Title: "Snapshots and mounts:"},
		&cobra.Group{ID: "container", Title: "Containers:"},
		&cobra.Group{ID: "store", Title: "The store:"},
	)
	only := named(args)
	for _, c := range commands() {
		if only == "" || c.name == only {
			sub := c.make(a)
			sub.GroupID = c.group
			wrapArgs(sub)
			cmd.AddCommand(sub)
		}
	}
	if only != "" {
		cmd.CompletionOptions.DisableDefaultCmd = true
		return cmd
	}
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	cmd.SetHelpCommand(newHelpCmd(cmd))
	cmd.InitDefaultCompletionCmd()
	for _, c := range cmd.Commands() {
		if c.Name() == "completion" {
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			wrapArgs(c)
		}
	}
	return cmd
}

// named returns the name of the command that arguments plainly name, else "".
func named(args []string) string {
	for len(args) > 1 && (args[0] == "--root" || args[0] == "--additional-store") {
		args = args[2:]
	}
	if len(args) == 0 {
		return ""
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.name
		}
	}
	return ""
}

func unknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q", name)
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError{fmt.Errorf("%s\nSee: %s --help", text, cmd.CommandPath())}
}

func newHelpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		ValidArgsFunction: func(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, c := range commands() {
				if len(args) == 0 && strings.HasPrefix(c.name, word) {
					names = append(names, c.name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 && cmd == root {
				return unknownCommand(root, args[0])
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// wrapArgs makes a wrong number of arguments a usage error.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				if len(cmd.Commands()) > 0 && len(args) > 0 {
					return unknownCommand(cmd, args[0])
				}
				if strings.HasPrefix(err.Error(), "unknown command") {
					err = fmt.Errorf("it takes no arguments, not %q", args) // cobra.NoArgs
				}
				return usageError{fmt.Errorf("%s: %w\nUsage: %s\nSee: %s --help", cmd.Name(), err, cmd.UseLine(), cmd.CommandPath())}
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

// additionalEnv names additional stores where no flag does.
const additionalEnv = "LAYERFS_ADDITIONAL_STORES"

// additionalStores returns the directories of the stores below this one, and leaves them
// in the environment for the processes of this program that are started from here.
func (a *app) additionalStores() ([]string, error) {
	dirs := a.additional
	if len(dirs) == 0 {
		dirs = filepath.SplitList(os.Getenv(additionalEnv))
	}
	if len(dirs) == 0 {
		return nil, nil
	}
	all := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, abs)
	}
	return all, os.Setenv(additionalEnv, strings.Join(all, string(os.PathListSeparator)))
}

// warner is a logger for what a user must know although the command succeeds.
func (a *app) warner() *slog.Logger {
	if a.verbose {
		return a.logger()
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attr
	}}))
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
	additional, err := a.additionalStores()
	if err != nil {
		return nil, err
	}
	a.catchSignals()
	if a.disk, err = disk.Open(ctx, root, disk.Options{Logger: a.logger(), Additional: additional}); err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	if a.now, err = sourceDate(); err != nil {
		return nil, err
	}
	opts := snapshot.Options{Logger: a.logger(), Now: a.now}
	if a.ids, err = rootless(); err != nil {
		return nil, err
	}
	if a.ids != nil || os.Geteuid() != 0 {
		opts.Namespace, opts.Owners = unionfs.User, owners(a.ids)
	}
	a.snaps, err = snapshot.New(a.disk, opts)
	return a.snaps, err
}

func (a *app) close() error {
	var errs []error
	if a.ctrs != nil {
		errs = append(errs, a.ctrs.Close())
	}
	if a.disk != nil {
		errs = append(errs, a.disk.Close())
	}
	return errors.Join(errs...)
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
