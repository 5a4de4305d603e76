// Command bench measures layerfs beside what limits it and what people use instead, on
// the same work, in one run:
//
//	go run ./bench [-rounds N] [line…]
//
// Every way to do a piece of work runs as whole processes, in turns with the others after
// a turn that does not count and in which the results are compared, so that what else the
// machine does hits all alike. Stores, and the daemons of peers, lie on a journaled ext4
// made for the run in a file that has no name: an interrupted run leaves nothing behind.
// A peer that cannot do something is shown with the reason. Without a line all are run.
// Needs root; `make bench-peers` installs the peers from Debian's packages, newer builds
// on the PATH are preferred.
//
// Results go to results.json, the page results.html and, with -record, to what is kept in
// this repository: bench/results.json, docs/performance.md and docs/performance.html. Each
// work is kept as soon as it is complete, in the place of what earlier runs have left of it;
// -resume goes on where an interrupted run has ended. A new line is a file with a function
// and a row in [lines].
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

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
		{"load", "load an image into an empty store and mount it", loadLine},
		{"again", "load the same image again: against hashing it", againLine},
		{"second", "load an image that shares most files: disk use against the unique bytes", secondLine},
		{"mount", "mount and unmount 1 to 400 layers", mountLine},
		{"commit", "list, commit and fork k changed files of images of 1,000 and 50,000", commitLine},
		{"tree", "walk, read and change the files of a mounted image", treeLine},
		{"unprivileged", "work with the files of a mounted image as an ordinary user can", unprivilegedLine},
		{"save", "write an image as an archive", saveLine},
		{"remove", "remove an image and free what it occupies", removeLine},
		{"run", "run a program in a new container", runLine},
		{"steps", "what the start of a container is made of", stepsLine},
		{"exec", "run a program in a container that runs", execLine},
		{"inline", "inline threshold: import, disk use, cold and warm reads", inlineLine},
		{"start", "start of the command itself", startLine},
		{"durable", "what durability costs an import", durableLine},
	}
}

func main() {
	var err error
	switch os.Getenv(stage) {
	case stageInit:
		err = initProcess()
	case stageWork:
		err = work()
	default:
		err = outer()
	}
	if err == nil {
		return
	}
	var exit *exec.ExitError
	if !errors.Is(err, errSaid) && !(errors.As(err, &exit) && os.Getenv(stage) == "") {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(1)
}

func work() (err error) {
	o := options{}
	var with, only string
	flag.IntVar(&o.rounds, "rounds", 0, "how often each contender's turn comes at most (default: as often as the work asks for)")
	flag.DurationVar(&o.per, "per", 2*time.Second, "how long a contender's counted turns of a work may take together; at least two are counted, of slow ones one")
	flag.DurationVar(&o.within, "within", 0, "begin no work after this time; -resume does what is left (default: no limit)")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "where the file system to measure on is made")
	flag.Int64Var(&o.gib, "gib", 12, "its size in GiB")
	flag.StringVar(&o.out, "out", "bench/results", "directory for results.json")
	flag.BoolVar(&o.record, "record", false, "renew what the repository keeps: bench/results.json and docs/performance.*")
	flag.BoolVar(&o.resume, "resume", false, "leave out what an earlier run has measured of the same commit")
	flag.StringVar(&o.layerfs, "layerfs", "", "program to measure (default: built from this module)")
	flag.StringVar(&o.form, "form", "", "load only images of this form: docker-archive, oci-gzip or oci-zstd")
	flag.StringVar(&only, "only", "", "do only pieces of work whose names match this regular expression")
	flag.StringVar(&with, "with", "", "measure only these peers, separated by commas; none for none")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./bench [flags] [line…]")
		flag.PrintDefaults()
		fmt.Fprintln(flag.CommandLine.Output(), "lines:")
		for _, l := range lines() {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-12s %s\n", l.name, l.title)
		}
	}
	flag.Parse()
	if o.rounds < 0 || o.per < 0 || o.within < 0 {
		return errors.New("-rounds, -per and -within: not below 0")
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if with != "" {
		o.with = strings.Split(with, ",")
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
		if err := b.measure(ctx, l); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			if errors.Is(err, errLate) {
				return errors.Join(append(failed, fmt.Errorf("%s: %w", l.name, err))...)
			}
			err = fmt.Errorf("%s: %w", l.name, err)
			fmt.Println("  failed:", err)
			failed = append(failed, err)
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
			return nil, fmt.Errorf("no line %q; there are %s", name, strings.Join(lineNames(), ", "))
		}
		todo = append(todo, all[i])
	}
	return todo, nil
}

func lineNames() []string {
	var names []string
	for _, l := range lines() {
		names = append(names, l.name)
	}
	return names
}
