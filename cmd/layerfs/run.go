package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newRunCmd(*app) *cobra.Command {
	return &cobra.Command{
		Use:   "run IMAGE COMMAND...",
		Short: "Run a process on an image",
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("run: the runtime is not part of this build: %w", errors.ErrUnsupported)
		},
	}
}
