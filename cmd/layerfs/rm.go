package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

func newRmCmd(a *app) *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:               "rm [flags] CONTAINER...",
		Short:             "Remove containers with what was written to them",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			var errs []error
			for _, word := range args {
				errs = append(errs, a.runRm(cmd.Context(), word, force, volumes))
			}
			return errors.Join(errs...)
		},
	}
	a.ownShorthand(cmd)
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first if it runs; no error when there is none")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "remove the volumes that were made for it alone, too")
	return cmd
}

func (a *app) runRm(ctx context.Context, word string, force, volumes bool) error {
	s, c, err := a.container(ctx, word)
	if force && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if force {
		if err := a.end(ctx, s, c); err != nil {
			return err
		}
	}
	if err := a.removeContainer(ctx, s, c, volumes); err != nil && (!c.Remove || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, word)
	return err
}

// end kills a container if it runs, and brings its state up to date.
func (a *app) end(ctx context.Context, s *container.Store, c *container.Container) error {
	if c.State.Active() {
		const atOnce = 0 * time.Second
		if err := a.stop(ctx, s, c, atOnce, "SIGKILL"); err != nil {
			return err
		}
	}
	// A command or monitor that is still busy with it has its last word first.
	if m := c.State.Monitor; m.Alive() {
		st, err := s.Wait(ctx, c.ID, func(st *container.State) bool { return !st.Monitor.Alive() })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if st != nil {
			c.State = *st
		}
	}
	st, err := s.Settle(ctx, c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it removed itself
	}
	if err == nil {
		c.State = *st
		c.State.Unattended = false
		if c.State.Active() {
			err = fmt.Errorf("container %s: %w", c.Name, container.ErrActive)
		}
	}
	return err
}
