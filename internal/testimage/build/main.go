// Command build makes the real images that tests load, all of them or those named:
//
//	go run ./internal/testimage/build [NAME…]
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/layerfs/layerfs/internal/testimage"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	names := os.Args[1:]
	if len(names) == 0 {
		names = testimage.Names()
	}
	for _, name := range names {
		start := time.Now()
		dir, err := testimage.Build(ctx, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "build:", err)
			os.Exit(1) //nolint:gocritic // the signal handler dies with the process
		}
		fmt.Printf("%-9s %s (%.1f s)\n", name, dir, time.Since(start).Seconds())
	}
}
