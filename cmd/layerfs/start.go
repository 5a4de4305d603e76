package main

import (
	"context"
	"errors"

	"github.com/layerfs/layerfs/runtime"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

func newStartCmd(a *app) *cobra.Command {
	var attach, interactive bool
	var keys string
	cmd := &cobra.Command{
		Use:   "start [flags] CONTAINER...",
		Short: "Start containers that were made or have ended",
		Long: `Start starts containers again as they were made, with what was written to them before,
and prints their names. With -a it shows what the container writes and ends with its
exit code.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.enter(); err != nil {
				return err
			}
			if !attach && !interactive {
				return a.eachContainer(cmd.Context(), args, a.startOne)
			}
			if len(args) > 1 {
				return usageError{errors.New("-a and -i take one container")}
			}
			parsed, err := parseDetachKeys(keys)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			s, c, err := a.container(ctx, args[0])
			if err != nil {
				return err
			}
			if c.State.Active() {
				return a.startOne(ctx, s, c)
			}
			if _, err := s.Settle(ctx, c.ID); err != nil {
				return err
			}
			o := attachOptions{stdin: interactive && c.Stdin, output: true, terminal: c.Terminal, keys: parsed, signals: !c.Terminal}
			return exitWith(a.startAttached(ctx, &c.Record, o))
		},
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "show its output and pass on signals")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass standard input on as well")
	addDetachKeys(cmd, &keys)
	return cmd
}

// startOne starts a container; one that runs is left as it is.
func (a *app) startOne(ctx context.Context, s *container.Store, c *container.Container) error {
	if c.State.Unattended {
		if _, err := s.Settle(ctx, c.ID); err != nil {
			return err
		}
	} else if c.State.Active() {
		return nil
	}
	err := a.startDetached(ctx, &c.Record)
	if code := startCode(err); err != nil && code != runtime.ExitFailed {
		return &exitError{code: code, err: err}
	}
	return err
}
