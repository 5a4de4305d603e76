package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/layerfs/layerfs/runtime/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// ociName is what the program is called as to be an OCI runtime by itself, since engines
// are given a path and put no word in front of their arguments.
const ociName = "layerfs-oci"

// ociArgs returns the arguments of a call, whatever the program was called as.
func ociArgs(args []string) []string {
	if filepath.Base(args[0]) == ociName {
		return append([]string{"oci"}, args[1:]...)
	}
	return args[1:]
}

// ociApp are the options before the subcommand, as runc and crun have them.
type ociApp struct {
	*app
	root      string
	logFile   string
	logFormat string
	debug     bool
	systemd   bool
	rootless  string
}

func newOCICmd(a *app) *cobra.Command {
	o := &ociApp{app: a}
	cmd := &cobra.Command{
		Use:   "oci COMMAND",
		Short: "Be an OCI runtime for containerd, docker, podman and others",
		Long: `Oci creates, starts and ends containers of OCI bundles, as runc and crun do, with the same
options. A program that wants the path of a runtime is given a link to layerfs of the
name ` + ociName + `, which is this command.`,
		Example: `  ln -s "$(command -v layerfs)" /usr/local/bin/` + ociName + `
  podman --runtime /usr/local/bin/` + ociName + ` run --rm debian:12 true
  layerfs oci spec && layerfs oci run box`,
		Version: version + "\nspec: " + specs.Version,
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetVersionTemplate(ociName + " version {{.Version}}\n")
	f := cmd.PersistentFlags()
	f.StringVar(&o.root, "root", "", "directory of the containers' state (default /run/layerfs/oci, or $XDG_RUNTIME_DIR/layerfs/oci)")
	f.StringVar(&o.logFile, "log", "", "file to write messages to, too")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&o.debug, "debug", false, "write more messages")
	f.BoolVar(&o.systemd, "systemd-cgroup", false, "have systemd make cgroups: not supported")
	f.StringVar(&o.rootless, "rootless", "auto", "whether the caller is an ordinary user; it is found out")
	cobra.CheckErr(f.MarkHidden("rootless"))
	cmd.AddCommand(o.createCmd(), o.startCmd(), o.runCmd(), o.stateCmd(), o.killCmd(), o.deleteCmd(), o.listCmd(),
		o.execCmd(), o.psCmd(), o.pauseCmd(), o.resumeCmd(), o.updateCmd(), o.specCmd(), o.featuresCmd())
	return cmd
}

// logged makes a command write its error to the log as well, where engines read it.
func (o *ociApp) logged(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if o.systemd {
			return fmt.Errorf("option --systemd-cgroup: cgroups are made without systemd; set the engine's cgroup manager to cgroupfs: %w", errors.ErrUnsupported)
		}
		logger, closeLog, err := o.openLog()
		if err != nil {
			return err
		}
		err = run(cmd, args)
		var exit *exitError
		if err != nil && (!errors.As(err, &exit) || exit.err != nil) {
			logger.Error(err.Error())
		}
		return errors.Join(err, closeLog())
	}
}

// starter is logged for a command that starts processes in containers.
func (o *ociApp) starter(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return o.logged(func(cmd *cobra.Command, args []string) error {
		if err := o.seal(); err != nil {
			return err
		}
		return run(cmd, args)
	})
}

// openLog returns a log in the form that runc writes, which engines know.
func (o *ociApp) openLog() (*slog.Logger, func() error, error) {
	if o.logFile == "" {
		return slog.New(slog.DiscardHandler), func() error { return nil }, nil
	}
	f, err := os.OpenFile(o.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	options := &slog.HandlerOptions{ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.LevelKey {
			at.Value = slog.StringValue(strings.ToLower(at.Value.String()))
		}
		return at
	}}
	var h slog.Handler = slog.NewTextHandler(f, options)
	if o.logFormat == "json" {
		h = slog.NewJSONHandler(f, options)
	}
	return slog.New(h), f.Close, nil
}

func (o *ociApp) containers() *oci.Store {
	root := o.root
	if root == "" {
		root = "/run/layerfs/oci"
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
			root = filepath.Join(dir, "layerfs/oci")
		}
	}
	return oci.NewStore(root)
}

// ociStart are the options of commands that start a process.
type ociStart struct {
	bundle, pidFile, consoleSocket string
	noPivot, noKeyring             bool
	preserve                       int
}

func (s *ociStart) add(cmd *cobra.Command, bundle bool) {
	f := cmd.Flags()
	if bundle {
		f.StringVarP(&s.bundle, "bundle", "b", ".", "directory of the bundle")
		f.BoolVar(&s.noPivot, "no-pivot", false, "leave the host's root where it is: not supported")
		f.BoolVar(&s.noKeyring, "no-new-keyring", false, "keep the caller's session keyring: not supported")
	}
	f.StringVar(&s.pidFile, "pid-file", "", "file to write the process's id to")
	f.StringVar(&s.consoleSocket, "console-socket", "", "socket to send the terminal to")
	f.IntVar(&s.preserve, "preserve-fds", 0, "further descriptors to pass on: not supported")
}

func (s *ociStart) options(o *ociApp) (oci.Options, error) {
	for name, set := range map[string]bool{"no-pivot": s.noPivot, "no-new-keyring": s.noKeyring, "preserve-fds": s.preserve > 0} {
		if set {
			return oci.Options{}, fmt.Errorf("option --%s: %w", name, errors.ErrUnsupported)
		}
	}
	ids, err := rootless()
	if err != nil {
		return oci.Options{}, err
	}
	out := oci.Options{PidFile: s.pidFile, ConsoleSocket: s.consoleSocket, InUserNamespace: ids != nil, Logger: o.logger()}
	if s.consoleSocket == "" {
		out.Stdin, out.Stdout, out.Stderr = asFile(o.stdin), asFile(o.stdout), asFile(o.stderr)
	}
	return out, nil
}

// asFile returns a stream as a file, or nil, which is the null device.
func asFile(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}

func (o *ociApp) createCmd() *cobra.Command {
	var s ociStart
	cmd := &cobra.Command{
		Use: "create [flags] ID", Short: "Create a container of a bundle, up to its program", Args: cobra.ExactArgs(1),
		RunE: o.starter(func(cmd *cobra.Command, args []string) error {
			options, err := s.options(o)
			if err != nil {
				return err
			}
			_, err = o.containers().Create(cmd.Context(), args[0], s.bundle, options)
			return err
		}),
	}
	s.add(cmd, true)
	return cmd
}

func (o *ociApp) runCmd() *cobra.Command {
	var s ociStart
	var detach, keep, noSubreaper bool
	cmd := &cobra.Command{
		Use: "run [flags] ID", Short: "Create a container of a bundle, start it and wait for its end", Args: cobra.ExactArgs(1),
		RunE: o.starter(func(cmd *cobra.Command, args []string) error {
			options, err := s.options(o)
			if err != nil {
				return err
			}
			if !detach {
				status, err := o.containers().Run(cmd.Context(), args[0], s.bundle, keep, options)
				return exitWith(status.ExitCode, err)
			}
			c, err := o.containers().Create(cmd.Context(), args[0], s.bundle, options)
			if err != nil {
				return err
			}
			if err := c.Start(cmd.Context(), options.Logger); err != nil {
				return errors.Join(err, c.Delete(cmd.Context(), true))
			}
			return nil
		}),
	}
	s.add(cmd, true)
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "return once the program runs")
	f.BoolVar(&keep, "keep", false, "keep the container when it has ended")
	f.BoolVar(&noSubreaper, "no-subreaper", false, "ignored: no process is adopted")
	return cmd
}

// one is a command on one container.
func (o *ociApp) one(use, short string, run func(cmd *cobra.Command, c *oci.Container) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: o.logged(func(cmd *cobra.Command, args []string) error {
			c, err := o.containers().Load(args[0])
			if err != nil {
				return err
			}
			return run(cmd, c)
		}),
	}
}

func (o *ociApp) startCmd() *cobra.Command {
	return o.one("start", "Start the program of a created container", func(cmd *cobra.Command, c *oci.Container) error {
		if err := o.seal(); err != nil { // hooks are run inside
			return err
		}
		return c.Start(cmd.Context(), o.logger())
	})
}

func (o *ociApp) pauseCmd() *cobra.Command {
	return o.one("pause", "Stop all processes of a container for a while", func(cmd *cobra.Command, c *oci.Container) error { return c.Pause(cmd.Context()) })
}

func (o *ociApp) resumeCmd() *cobra.Command {
	return o.one("resume", "Let a paused container run on", func(cmd *cobra.Command, c *oci.Container) error { return c.Resume(cmd.Context()) })
}

func (o *ociApp) stateCmd() *cobra.Command {
	return o.one("state", "Print the state of a container", func(_ *cobra.Command, c *oci.Container) error { return o.printJSON(c.State()) })
}

func (o *ociApp) printJSON(v any) error {
	e := json.NewEncoder(o.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (o *ociApp) killCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "kill [flags] ID [SIGNAL]", Short: "Send a signal to a container (SIGTERM)", Args: cobra.RangeArgs(1, 2),
		RunE: o.logged(func(_ *cobra.Command, args []string) error {
			s := unix.SIGTERM
			if len(args) > 1 {
				var err error
				if s, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			c, err := o.containers().Load(args[0])
			if err != nil {
				return err
			}
			return c.Signal(s, all)
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "to all processes of the container")
	return cmd
}

func (o *ociApp) deleteCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete [flags] ID", Short: "Remove a stopped container", Args: cobra.ExactArgs(1),
		RunE: o.logged(func(cmd *cobra.Command, args []string) error {
			s := o.containers()
			c, err := s.Load(args[0])
			switch {
			case err == nil:
				return c.Delete(cmd.Context(), force)
			case force && errors.Is(err, fs.ErrNotExist):
				return s.Prune(cmd.Context(), args[0], o.logger())
			}
			return err
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first; no error if it is not there")
	return cmd
}

func (o *ociApp) listCmd() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the containers", Args: cobra.NoArgs,
		RunE: o.logged(func(*cobra.Command, []string) error {
			all, err := o.containers().List()
			if err != nil {
				return err
			}
			states := []oci.State{}
			var rows [][]string
			for _, c := range all {
				s := c.State()
				states = append(states, s)
				rows = append(rows, []string{s.ID, strconv.Itoa(s.Pid), string(s.Status), s.Bundle, s.Created.Format(time.RFC3339), strconv.Itoa(s.Owner)})
			}
			switch {
			case quiet:
				for _, s := range states {
					fmt.Fprintln(o.stdout, s.ID)
				}
				return nil
			case format == "json":
				return o.printJSON(states)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 3, ' ', 0)
			for _, r := range append([][]string{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}}, rows...) {
				fmt.Fprintln(w, strings.Join(r, "\t"))
			}
			return w.Flush()
		}),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	return cmd
}

func (o *ociApp) psCmd() *cobra.Command {
	var format string
	cmd := o.one("ps", "Print the ids of a container's processes", func(_ *cobra.Command, c *oci.Container) error {
		pids, err := c.Processes()
		if err != nil {
			return err
		}
		if format == "json" {
			if pids == nil {
				pids = []int{}
			}
			return json.NewEncoder(o.stdout).Encode(pids)
		}
		for _, pid := range pids {
			fmt.Fprintln(o.stdout, pid)
		}
		return nil
	})
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

func (o *ociApp) updateCmd() *cobra.Command {
	var from string
	cmd := o.one("update", "Change the limits of a container", func(_ *cobra.Command, c *oci.Container) error {
		if from == "-" {
			return c.Update(o.stdin)
		}
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		return errors.Join(c.Update(f), f.Close())
	})
	cmd.Flags().StringVarP(&from, "resources", "r", "-", "file with linux.resources in JSON, - for standard input")
	return cmd
}
