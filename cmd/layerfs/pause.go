package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

func newPauseCmd(a *app) *cobra.Command {
	return a.freezeCommand("pause", "Stop all processes of containers where they are", container.Running, container.Paused, (*cgroup.Group).Freeze)
}

func newUnpauseCmd(a *app) *cobra.Command {
	return a.freezeCommand("unpause", "Let containers that are paused go on", container.Paused, container.Running, (*cgroup.Group).Thaw)
}

func (a *app) freezeCommand(name, short string, from, to container.Status, change func(*cgroup.Group, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use:               name + " CONTAINER...",
		Short:             short,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			return a.eachContainer(cmd.Context(), args, func(ctx context.Context, s *container.Store, c *container.Container) error {
				group, err := groupOf(c)
				if err != nil {
					return fmt.Errorf("%s container %s: %w", name, c.Name, err)
				}
				_, err = s.Change(ctx, c.ID, func(st *container.State) error {
					if st.Status != from || st.Unattended {
						return fmt.Errorf("%s container %s: it is %s: %w", name, c.Name, st.Status, container.ErrNotActive)
					}
					st.Status = to
					return change(group, ctx)
				})
				if err == nil {
					s.Emit(name, &c.Record, nil)
				}
				return err
			})
		},
	}
}

// groupOf returns the control group of a container that runs.
func groupOf(c *container.Container) (*cgroup.Group, error) {
	if !c.State.Active() {
		return nil, container.ErrNotActive
	}
	if c.State.Cgroup == "" {
		return nil, fmt.Errorf("it has no control group: %w", errors.ErrUnsupported)
	}
	return cgroup.Load(c.State.Cgroup)
}
