package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

func newRenameCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NAME",
		Short:             "Give a container another name",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeContainers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, c, err := a.container(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := s.Rename(cmd.Context(), c.ID, args[1]); err != nil {
				return err
			}
			s.Emit("rename", &c.Record, map[string]string{"newName": args[1]})
			return nil
		},
	}
}

func newUpdateCmd(a *app) *cobra.Command {
	var resources resourceFlags
	var restart string
	cmd := &cobra.Command{
		Use:   "update [flags] CONTAINER...",
		Short: "Change limits and restart policies of containers, also of those that run",
		Args:  cobra.MinimumNArgs(1),

		ValidArgsFunction: a.completeContainers(-1),
	}
	resources.add(cmd.Flags())
	cmd.Flags().StringVar(&restart, "restart", "", "when to start it again: no, on-failure[:N], always, unless-stopped")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().NFlag() == 0 {
			return usageError{errors.New("give what to change")}
		}
		policy, err := container.ParseRestartPolicy(restart)
		if err != nil {
			return usageError{err}
		}
		if err := a.enter(); err != nil {
			return err
		}
		return a.eachContainer(cmd.Context(), args, func(ctx context.Context, s *container.Store, c *container.Container) error {
			return a.update(ctx, s, c, &resources, policy, cmd.Flags().Changed("restart"))
		})
	}
	return cmd
}

func (a *app) update(ctx context.Context, s *container.Store, c *container.Container, r *resourceFlags, policy container.RestartPolicy, changePolicy bool) error {
	if changePolicy && c.Remove && policy.Mode != container.RestartNo {
		return usageError{fmt.Errorf("container %s was made with --rm, which excludes --restart", c.Name)}
	}
	var limits specs.LinuxResources
	err := s.Update(ctx, c.ID, func(rec *container.Record) error {
		if rec.Resources != nil {
			limits = *rec.Resources
		}
		if err := r.apply(&limits); err != nil {
			return err
		}
		if changePolicy {
			rec.Restart = policy
		}
		if limits.CPU != nil || limits.Memory != nil || limits.Pids != nil || limits.BlockIO != nil {
			rec.Resources = &limits
		}
		if !c.State.Active() || c.State.Process.Pid == 0 || rec.Resources == nil {
			return nil
		}
		group, err := groupOf(c)
		if err != nil {
			return fmt.Errorf("update container %s: %w", c.Name, err)
		}
		return errors.Join(group.Apply(&limits)...)
	})
	if err == nil {
		s.Emit("update", &c.Record, nil)
	}
	return err
}
