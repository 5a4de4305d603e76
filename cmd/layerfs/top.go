package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

func newTopCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [PS OPTION...]",
		Short: "Show the processes of a container, as this machine's ps does",
		Long: `Top runs ps of this machine with the options given, -ef without any, and shows the lines
of the container's processes. Their ids are those of this machine.`,
		Example:           `  layerfs top web -o pid,rss,args`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runTop(cmd.Context(), args[0], args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false) // what comes after the container is for ps
	return cmd
}

func (a *app) runTop(ctx context.Context, word string, options []string) error {
	_, c, err := a.container(ctx, word)
	if err != nil {
		return err
	}
	pids, err := processes(c)
	if err != nil {
		return fmt.Errorf("processes of container %s: %w", c.Name, err)
	}
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).Output()
	if err != nil {
		return fmt.Errorf("run ps %s: %w", strings.Join(options, " "), err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := -1
	for i, head := range strings.Fields(lines[0]) {
		if head == "PID" {
			column = i
		}
	}
	if column < 0 {
		return usageError{fmt.Errorf("ps %s shows no column PID", strings.Join(options, " "))}
	}
	for i, line := range lines {
		f := strings.Fields(line)
		if i > 0 {
			if len(f) <= column {
				continue
			}
			if pid, err := strconv.Atoi(f[column]); err != nil || !pids[pid] {
				continue
			}
		}
		if _, err := fmt.Fprintln(a.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// processes are the ids of a container's processes on this machine.
func processes(c *container.Container) (map[int]bool, error) {
	var list []int
	group, err := groupOf(c)
	switch {
	case err == nil:
		list, err = group.Procs()
	case c.State.Active() && c.State.Cgroup == "":
		list, err = runtime.Processes(c.State.Process.Pid)
	}
	if err != nil {
		return nil, err
	}
	pids := make(map[int]bool, len(list))
	for _, pid := range list {
		pids[pid] = true
	}
	return pids, nil
}
