// Command bench measures layerfs beside what limits it and what people use instead, on
// the same work, in one run:
//
//	go run ./bench [-rounds N] [line…]
//
// Every way to do a piece of work runs as a whole process, in turns with the others
// after a turn that does not count, so that what else the machine does hits all alike.
// Stores lie on a journaled ext4 made for the run in a file that has no name: an
// interrupted run leaves nothing behind. Without a line all are run. Needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// line is one kind of work. Its file holds the program lines that do it.
type line struct {
	name  string
	title string
	run   func(ctx context.Context, b *bench) error
}

func lines() []line {
	return []line{
		{"load", "load an 11-layer image: against the floor, and against tar", loadLine},
		{"again", "load the same image again: against hashing it", againLine},
		{"second", "load an image that shares most files: disk use against the unique bytes", secondLine},
		{"mount", "mount and unmount 1 to 400 layers", mountLine},
		{"commit", "commit k changed files of images of 1,000 and 50,000", commitLine},
		{"inline", "inline threshold: import, disk use, cold and warm reads", inlineLine},
		{"start", "start of the command itself", startLine},
		{"durable", "what durability costs an import", durableLine},
	}
}

// inside marks the process that runs in a mount namespace of its own.
const inside = "LAYERFS_BENCH_INSIDE"

func main() {
	var err error
	if os.Getenv(inside) == "" {
		err = outer()
	} else {
		err = inner()
	}
	if err == nil {
		return
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && os.Getenv(inside) == "" {
		os.Exit(1) // it has said why
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// outer runs this program again in a mount namespace of its own: whatever way it ends,
// nothing stays mounted.
func outer() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("mounting needs root: %w", os.ErrPermission)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// Ctrl-C reaches the whole process group; this process only waits.
	signal.Ignore(os.Interrupt, unix.SIGTERM)
	cmd := exec.Command(self, os.Args[1:]...) //nolint:noctx // ends by itself when its signals come
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	return cmd.Run()
}

func inner() (err error) {
	o := options{}
	flag.IntVar(&o.rounds, "rounds", 5, "how often each contender's turn comes")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "where the file system to measure on is made")
	flag.Int64Var(&o.gib, "gib", 12, "its size in GiB")
	flag.StringVar(&o.out, "out", "bench/results", "directory for results.json")
	flag.StringVar(&o.layerfs, "layerfs", "", "program to measure (default: built from this module)")
	flag.StringVar(&o.form, "form", "", "load only images of this form: docker-archive, oci-gzip or oci-zstd")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./bench [flags] [line…]")
		flag.PrintDefaults()
		fmt.Fprintln(flag.CommandLine.Output(), "lines:")
		for _, l := range lines() {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-8s %s\n", l.name, l.title)
		}
	}
	flag.Parse()
	if o.rounds < 1 {
		return errors.New("-rounds: at least 1")
	}
	todo, err := chosen(flag.Args())
	if err != nil {
		return err
	}
	signal.Reset(os.Interrupt, unix.SIGTERM)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var failed []error
	for _, l := range todo {
		fmt.Printf("\n%s: %s\n", l.name, l.title)
		b.line = l.name
		if err := l.run(ctx, b); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			err = fmt.Errorf("%s: %w", l.name, err)
			fmt.Println("  failed:", err)
			failed = append(failed, err)
		}
		// Written after each line, so that an interrupted run has what was measured.
		if err := b.report.write(o.out); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

func chosen(names []string) ([]line, error) {
	all := lines()
	if len(names) == 0 {
		return all, nil
	}
	var todo []line
	for _, name := range names {
		i := slices.IndexFunc(all, func(l line) bool { return l.name == name })
		if i < 0 {
			var have []string
			for _, l := range all {
				have = append(have, l.name)
			}
			return nil, fmt.Errorf("no line %q; there are %s", name, strings.Join(have, ", "))
		}
		todo = append(todo, all[i])
	}
	return todo, nil
}
