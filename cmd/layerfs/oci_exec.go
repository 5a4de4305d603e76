package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/spf13/cobra"
)

// ociExec are the options of exec.
type ociExec struct {
	ociStart
	process, cwd, user, apparmor, label string
	env, caps                           []string
	gids                                []uint
	tty, detach, noNewPrivs, paused     bool
}

func (o *ociApp) execCmd() *cobra.Command {
	var e ociExec
	cmd := &cobra.Command{
		Use: "exec [flags] ID [COMMAND [ARG...]]", Short: "Start one more process in a container", Args: cobra.MinimumNArgs(1),
		RunE: o.starter(func(cmd *cobra.Command, args []string) error {
			c, err := o.containers().Load(args[0])
			if err != nil {
				return err
			}
			options, err := e.options(o)
			if err != nil {
				return err
			}
			process, err := e.describe(c, args[1:])
			if err != nil {
				return err
			}
			if process.Terminal && e.consoleSocket == "" {
				return usageError{errors.New("a terminal needs --console-socket")}
			}
			p, err := c.Exec(cmd.Context(), process, e.detach, options)
			if err != nil {
				return exitWith(runtime.StartCode(err), err)
			}
			if e.detach {
				return p.Close()
			}
			status, err := p.Wait()
			return exitWith(status.ExitCode, errors.Join(err, p.Close()))
		}),
	}
	e.add(cmd, false)
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&e.process, "process", "p", "", "file that describes the process")
	f.StringVar(&e.cwd, "cwd", "", "working directory")
	f.StringVarP(&e.user, "user", "u", "", "UID[:GID]")
	f.UintSliceVarP(&e.gids, "additional-gids", "g", nil, "further groups")
	f.StringArrayVarP(&e.env, "env", "e", nil, "environment variable, NAME=VALUE (repeatable)")
	f.StringArrayVarP(&e.caps, "cap", "c", nil, "further capability (repeatable)")
	f.BoolVarP(&e.tty, "tty", "t", false, "give the process a terminal")
	f.BoolVarP(&e.detach, "detach", "d", false, "return once the program runs")
	f.BoolVar(&e.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	f.StringVar(&e.apparmor, "apparmor", "", "AppArmor profile")
	f.StringVar(&e.label, "process-label", "", "SELinux label")
	f.BoolVar(&e.paused, "ignore-paused", false, "ignored: a paused container refuses")
	return cmd
}

// describe returns the process: as a file has it, or as the container's with changes.
func (e *ociExec) describe(c *oci.Container, args []string) (*specs.Process, error) {
	if e.process != "" {
		return oci.ReadProcess(e.process)
	}
	if len(args) == 0 {
		return nil, usageError{errors.New("give a command or --process")}
	}
	p := *c.Spec.Process
	p.Args, p.Terminal = args, e.tty
	p.Env = append(slices.Clone(p.Env), e.env...)
	if e.cwd != "" {
		p.Cwd = e.cwd
	}
	if e.user != "" {
		uid, gid, named := strings.Cut(e.user, ":")
		ids := [2]uint32{}
		for i, text := range []string{uid, gid} {
			if i == 1 && !named {
				break
			}
			n, err := strconv.ParseUint(text, 10, 32)
			if err != nil || n > math.MaxInt32 {
				return nil, usageError{fmt.Errorf("user %q is not of the form UID[:GID]", e.user)}
			}
			ids[i] = uint32(n)
		}
		p.User = specs.User{UID: ids[0], GID: ids[1]}
	}
	for _, g := range e.gids {
		p.User.AdditionalGids = append(slices.Clone(p.User.AdditionalGids), uint32(g))
	}
	p.NoNewPrivileges = p.NoNewPrivileges || e.noNewPrivs
	if e.apparmor != "" {
		p.ApparmorProfile = e.apparmor
	}
	if e.label != "" {
		p.SelinuxLabel = e.label
	}
	if len(e.caps) > 0 {
		caps := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			caps = *p.Capabilities
		}
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			*set = append(slices.Clone(*set), e.caps...)
		}
		p.Capabilities = &caps
	}
	return &p, nil
}

func (o *ociApp) specCmd() *cobra.Command {
	var bundle string
	var asUser bool
	cmd := &cobra.Command{
		Use: "spec", Short: "Write config.json of a container with a shell", Args: cobra.NoArgs,
		RunE: o.logged(func(*cobra.Command, []string) error {
			s := runtime.DefaultSpec()
			s.Root = &specs.Root{Path: "rootfs", Readonly: true}
			s.Hostname = "layerfs"
			s.Process.Args, s.Process.Terminal = []string{"sh"}, true
			s.Process.Env = append(s.Process.Env, "TERM=xterm")
			if asUser {
				uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: uid, Size: 1}}
				s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: gid, Size: 1}}
			} else {
				ids, err := rootless()
				if err != nil {
					return err
				}
				fitNamespace(s, ids)
			}
			if err := runtime.FilterCalls(s, nil); err != nil {
				return err
			}
			f, err := os.OpenFile(filepath.Join(bundle, "config.json"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%w: remove it first", err)
			}
			if err != nil {
				return err
			}
			to := *o
			app := *o.app
			app.stdout = f
			to.app = &app
			return errors.Join(to.printJSON(s), f.Close())
		}),
	}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "directory to write it to")
	cmd.Flags().BoolVar(&asUser, "rootless", false, "for an ordinary user, whose id alone is mapped")
	return cmd
}

func (o *ociApp) featuresCmd() *cobra.Command {
	return &cobra.Command{
		Use: "features", Short: "Print what the runtime can do", Args: cobra.NoArgs,
		RunE: o.logged(func(*cobra.Command, []string) error {
			yes, no := true, false
			v1, v2 := false, false
			if mounts, err := cgroup.Mounted(); err == nil {
				for _, m := range mounts {
					v1, v2 = v1 || !m.Unified, v2 || m.Unified
				}
			}
			return o.printJSON(features.Features{
				OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
				Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
				MountOptions: runtime.MountOptions(),
				Linux: &features.Linux{
					Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
					Capabilities: runtime.Capabilities(),
					Cgroup:       &features.Cgroup{V1: &v1, V2: &v2, Systemd: &no, SystemdUser: &no},
					Seccomp: &features.Seccomp{
						Enabled:   &yes,
						Actions:   []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"},
						Operators: []string{"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"},
					},
					Apparmor: &features.Apparmor{Enabled: &yes}, Selinux: &features.Selinux{Enabled: &yes},
					IntelRdt:        &features.IntelRdt{Enabled: &no},
					MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
				},
			})
		}),
	}
}
