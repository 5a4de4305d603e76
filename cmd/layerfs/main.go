// Command layerfs stores container image layers, mounts any stack of them, records
// what was changed as a new layer, and runs processes on the result.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker, see the Makefile.
var version = "devel"

func main() { os.Exit(run()) }

func run() int {
	// The first Ctrl-C cancels what is under way, which cleans up; the second ends the
	// program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()
	app := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	cmd := newRootCmd(app)
	err := cmd.ExecuteContext(ctx)
	if cerr := app.close(); err == nil {
		err = cerr
	}
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) || exit.err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(app.stderr, "layerfs: %v\n", err)
	}
	return exitCode(err)
}
