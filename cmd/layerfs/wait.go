package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

func newWaitCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER...",
		Short:             "Wait until containers end, and print their exit codes",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, word := range args {
				s, c, err := a.container(cmd.Context(), word)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				run := c.State.Started
				st, err := s.Wait(cmd.Context(), c.ID, func(st *container.State) bool {
					return !st.Active() || st.Started.After(run) || st.Status == container.Restarting
				})
				if c.Remove && errors.Is(err, fs.ErrNotExist) && st == nil {
					err = fmt.Errorf("container %s removed itself before its exit code was read: %w", c.Name, fs.ErrNotExist)
				}
				if err == nil {
					_, err = fmt.Fprintln(a.stdout, st.ExitCode)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}
