package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/layerfs/layerfs/runtime"
	"github.com/spf13/cobra"
)

func newUnshareCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unshare [COMMAND [ARG...]]",
		Short: "Run a shell or a command where an ordinary user's mounts are",
		Long: `Unshare runs COMMAND, or the shell, in the user and mount namespace in which layerfs
works for an ordinary user. There the user is root: of the mounts that layerfs made, of
files of all owners in snapshots, and of nothing else. Mounts stay until they are
unmounted or the machine stops. For root it runs COMMAND as it is.`,
		Example: `  layerfs unshare
  layerfs unshare sh -c 'layerfs mount --name work debian:12 /mnt && ls -l /mnt'
  layerfs unshare ls -l /mnt`,
		RunE: func(_ *cobra.Command, args []string) error { return a.runUnshare(args) },
	}
	cmd.Flags().SetInterspersed(false) // flags after the command are the command's
	return cmd
}

func (a *app) runUnshare(args []string) error {
	if err := a.enter(); err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{cmp.Or(os.Getenv("SHELL"), "/bin/sh")}
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return &exitError{code: runtime.ExitNotFound, err: err}
	}
	// The standard library's, which gives the limit of open files back as it was.
	err = syscall.Exec(path, args, os.Environ())
	return &exitError{code: runtime.ExitNotExecutable, err: fmt.Errorf("execute %s: %w", path, err)}
}
