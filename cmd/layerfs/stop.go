package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

func newStopCmd(a *app) *cobra.Command {
	var timeout int
	var sig string
	cmd := &cobra.Command{
		Use:   "stop [flags] CONTAINER...",
		Short: "Ask containers to end, and kill them when they do not",
		Long: `Stop sends each container its stop signal, SIGTERM unless it has another, and SIGKILL when
it has not ended after the time that it has for that. Its restart policy rests then.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
	}
	addStopFlags(cmd, &timeout, &sig)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.enter(); err != nil {
			return err
		}
		return a.eachContainer(cmd.Context(), args, func(ctx context.Context, s *container.Store, c *container.Container) error {
			return a.stop(ctx, s, c, stopTime(cmd, timeout, c), sig)
		})
	}
	return cmd
}

func addStopFlags(cmd *cobra.Command, timeout *int, sig *string) {
	cmd.Flags().IntVarP(timeout, "time", "t", container.DefaultStopTimeout, "seconds to wait before it is killed; negative: for ever (default: the container's)")
	cmd.Flags().StringVarP(sig, "signal", "s", "", "signal to send (default: the container's)")
}

// stopTime is how long a container has to end; negative is any.
func stopTime(cmd *cobra.Command, flag int, c *container.Container) time.Duration {
	seconds := container.DefaultStopTimeout
	if c.StopTimeout != nil {
		seconds = *c.StopTimeout
	}
	if cmd.Flags().Changed("time") {
		seconds = flag
	}
	return time.Duration(seconds) * time.Second
}

// stop ends a container; one that does not run is left as it is.
func (a *app) stop(ctx context.Context, s *container.Store, c *container.Container, patience time.Duration, sig string) error {
	return a.stopThen(ctx, s, c, patience, sig, func(st *container.State) { st.Stopped = true })
}

// stopThen ends a container whose state says what comes after.
func (a *app) stopThen(ctx context.Context, s *container.Store, c *container.Container, patience time.Duration, sig string, mark func(*container.State)) error {
	if c.State.Unattended {
		_, err := s.Settle(ctx, c.ID)
		return err
	}
	if !c.State.Active() {
		return nil
	}
	if sig == "" {
		sig = c.StopSignal
	}
	if sig == "" {
		sig = "SIGTERM"
	}
	number, err := parseSignal(sig)
	if err != nil {
		return err
	}
	st, err := s.Change(ctx, c.ID, func(st *container.State) error {
		mark(st)
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.signal(ctx, &c.Record, st, number); err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	wctx := ctx
	if patience >= 0 {
		var cancel context.CancelFunc
		wctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	over := overSince(st)
	_, err = s.Wait(wctx, c.ID, over)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		// It may have another process by now.
		if st, err = s.State(c.ID); err == nil && !over(st) {
			if err := a.signal(ctx, &c.Record, st, syscall.SIGKILL); err != nil {
				return fmt.Errorf("kill container %s: %w", c.Name, err)
			}
			_, err = s.Wait(ctx, c.ID, over)
		}
	}
	if err != nil && c.Remove && errors.Is(err, os.ErrNotExist) {
		err = nil // it removed itself
	}
	if err == nil {
		s.Emit("stop", &c.Record, nil)
	}
	return err
}

// overSince tells of later states of a container whether the run of st has ended; of a
// container that was stopped, whether the last one has. What is started when it was not
// stopped any more, somebody else wanted.
func overSince(st *container.State) func(*container.State) bool {
	run := st.Started
	return func(st *container.State) bool { return !st.Active() || st.Started.After(run) && !st.Stopped }
}

// signal sends a signal to the first process of a container. One that is paused is let
// go on, so that it can end.
func (a *app) signal(ctx context.Context, rec *container.Record, st *container.State, number syscall.Signal) error {
	err := st.Process.Verify()
	if err == nil && rec.Runtime != "" {
		if err = a.external(rec).Kill(ctx, number); err != nil && !st.Process.Alive() {
			err = nil
		}
	} else if err == nil {
		err = st.Process.Signal(number)
	}
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err == nil && st.Status == container.Paused && st.Cgroup != "" {
		group, gerr := cgroup.Load(st.Cgroup)
		if gerr != nil {
			return gerr
		}
		err = group.Thaw(ctx)
	}
	return err
}

func newKillCmd(a *app) *cobra.Command {
	var sig string
	cmd := &cobra.Command{
		Use:               "kill [flags] CONTAINER...",
		Short:             "Send containers a signal, SIGKILL unless another is given",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseSignal(sig)
			if err != nil {
				return err
			}
			if err := a.enter(); err != nil {
				return err
			}
			return a.eachContainer(cmd.Context(), args, func(ctx context.Context, s *container.Store, c *container.Container) error {
				return a.kill(ctx, s, c, number)
			})
		},
	}
	cmd.Flags().StringVarP(&sig, "signal", "s", "SIGKILL", "signal, by name or number")
	return cmd
}

func (a *app) kill(ctx context.Context, s *container.Store, c *container.Container, number syscall.Signal) error {
	if !c.State.Active() {
		return fmt.Errorf("kill container %s: %w", c.Name, container.ErrNotActive)
	}
	if c.State.Unattended && number == syscall.SIGKILL {
		_, err := s.Settle(ctx, c.ID)
		return err
	}
	// As in Docker, who kills does not want it started again.
	st, err := s.Change(ctx, c.ID, func(st *container.State) error {
		if number == syscall.SIGKILL {
			st.Stopped = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.signal(ctx, &c.Record, st, number); err != nil {
		return fmt.Errorf("kill container %s: %w", c.Name, err)
	}
	s.Emit("kill", &c.Record, map[string]string{"signal": itoa(int(number))})
	if number != syscall.SIGKILL {
		return nil
	}
	_, err = s.Wait(ctx, c.ID, overSince(st))
	if c.Remove && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func newRestartCmd(a *app) *cobra.Command {
	var timeout int
	var sig string
	cmd := &cobra.Command{
		Use:               "restart [flags] CONTAINER...",
		Short:             "Stop containers and start them again",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
	}
	addStopFlags(cmd, &timeout, &sig)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.enter(); err != nil {
			return err
		}
		return a.eachContainer(cmd.Context(), args, func(ctx context.Context, s *container.Store, c *container.Container) error {
			return a.restart(ctx, s, c, stopTime(cmd, timeout, c), sig)
		})
	}
	return cmd
}

func (a *app) restart(ctx context.Context, s *container.Store, c *container.Container, patience time.Duration, sig string) error {
	switch st := c.State; {
	case st.Status == container.Running && !st.Unattended, st.Status == container.Paused && !st.Unattended:
		// Its monitor starts it again: who is attached to the monitor's log stays so.
		if err := a.stopThen(ctx, s, c, patience, sig, func(st *container.State) { st.StartAgain = true }); err != nil {
			return err
		}
		now, err := s.Wait(ctx, c.ID, func(now *container.State) bool {
			return !now.Active() || now.Started.After(st.Started) && now.Process.Pid != 0
		})
		if err != nil {
			return err
		}
		if !now.Active() && now.Error != "" {
			return fmt.Errorf("restart container %s: %s", c.Name, now.Error)
		}
		s.Emit("restart", &c.Record, nil)
		return nil
	case st.Active():
		if err := a.stop(ctx, s, c, patience, sig); err != nil {
			return err
		}
	}
	if err := a.startDetached(ctx, &c.Record); err != nil {
		return err
	}
	s.Emit("restart", &c.Record, nil)
	return nil
}
