// Command scale measures what grows with a store: it fills one with many images and one
// with ten, and runs the same commands on both in turns.
//
//	go run ./bench/scale [-images 10000] [-layers 10] [-objects 10] [-dir DIR] [-program LAYERFS]
//
// It ends with code 1 when a command that is about one image takes more than 1.5 times as
// long on the large store, or df more than 50 ms. Needs root, and with the defaults 5 GB
// in DIR, which is emptied again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerfs/layerfs/bench/scale/synth"
	"github.com/layerfs/layerfs/cas/disk"
)

const (
	few      = 10
	maxRatio = 1.5
	maxDf    = 50 * time.Millisecond
)

func main() {
	var s scale
	flag.IntVar(&s.size.Images, "images", 10_000, "images of the large store")
	flag.IntVar(&s.size.Layers, "layers", 10, "layers of an image")
	flag.IntVar(&s.size.Objects, "objects", 10, "objects of a layer")
	flag.IntVar(&s.rounds, "rounds", 9, "how often each command is run on each store")
	flag.StringVar(&s.program, "program", "bin/layerfs", "layerfs to measure")
	flag.BoolVar(&s.one, "one", false, "leave out the commands that are about all images")
	dir := flag.String("dir", "", "where to make the stores (default a temporary directory)")
	flag.Parse()
	if err := s.run(context.Background(), *dir); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

type scale struct {
	size    synth.Size
	rounds  int
	one     bool
	program string
	dir     string
}

// line is a command to measure.
type line struct {
	name   string
	args   []string
	undo   []string // run after it, not measured
	one    bool     // it is about one image, so that it must not grow
	rounds int      // when not the usual number
}

// lines are run in this order.
func (s *scale) lines() []line {
	mnt := filepath.Join(s.dir, "mnt")
	return []line{
		{name: "load", args: []string{"load", "-q", "-i", filepath.Join(s.dir, "one.tar")}, undo: []string{"rmi", "one:1"}, one: true},
		{name: "tag", args: []string{"tag", synth.Name(3), "tagged:1"}, undo: []string{"rmi", "tagged:1"}, one: true},
		{name: "rmi", args: []string{"rmi", synth.Name(4)}, undo: []string{"tag", synth.Name(5), synth.Name(4)}, one: true},
		{name: "images NAME", args: []string{"images", strings.TrimSuffix(synth.Name(3), ":1")}, one: true},
		{name: "inspect", args: []string{"inspect", synth.Name(3)}, one: true},
		{name: "ls", args: []string{"ls", synth.Name(3)}, one: true},
		{name: "mount", args: []string{"mount", "--name", "m", synth.Name(3), mnt}, undo: []string{"umount", "--rm", "m"}, one: true},
		{name: "commit", args: []string{"commit", "work", "committed:1"}, undo: []string{"rmi", "committed:1"}, one: true},
		{name: "save", args: []string{"save", "-q", "-o", filepath.Join(s.dir, "saved.tar"), synth.Name(3)}, one: true},
		{name: "df", args: []string{"df"}, one: true},
		{name: "images", args: []string{"images", "-q"}, rounds: 2},
		{name: "gc", args: []string{"gc"}, rounds: 2},
		{name: "fsck", args: []string{"fsck", "-q"}, rounds: 1},
	}
}

func (s *scale) run(ctx context.Context, dir string) (err error) {
	if s.program, err = filepath.Abs(s.program); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp(dir, "scale"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if err := os.Mkdir(filepath.Join(s.dir, "mnt"), 0o755); err != nil {
		return err
	}
	small := s.size
	small.Images = few
	for name, size := range map[string]synth.Size{"few": small, "many": s.size} {
		if err := s.fill(ctx, name, size); err != nil {
			return fmt.Errorf("fill store: %w", err)
		}
	}
	fmt.Printf("%d images, %d layers, %d objects, against %d images\n\n", s.size.Images, s.size.Images*s.size.Layers,
		s.size.Images*s.size.Layers*s.size.Objects, few)
	fmt.Println("| command | few, ms | many, ms | ratio | many, MB |\n|---|---|---|---|---|")
	var slow []string
	for _, l := range s.lines() {
		if s.one && !l.one {
			continue
		}
		ratio, many, err := s.measure(ctx, l)
		if err != nil {
			return err
		}
		if l.one && ratio > maxRatio || l.name == "df" && many > maxDf {
			slow = append(slow, l.name)
		}
	}
	if len(slow) > 0 {
		return fmt.Errorf("too slow on the large store: %s", strings.Join(slow, ", "))
	}
	return nil
}

// fill makes a store, and what the lines work on.
func (s *scale) fill(ctx context.Context, name string, size synth.Size) error {
	began := time.Now()
	d, err := disk.Open(ctx, filepath.Join(s.dir, name), disk.Options{NoSync: true})
	if err != nil {
		return err
	}
	err = synth.Fill(ctx, d, size, 1, func(n int) {
		if n%2000 == 0 {
			fmt.Fprintf(os.Stderr, "%d images after %v\n", n, time.Since(began).Round(time.Second))
		}
	})
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	layer, err := synth.Tar("one", size.Objects)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "one-layer.tar"), layer, 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mount", "--name", "work", synth.Name(1), filepath.Join(s.dir, "mnt")},
		{"umount", "work"},
		{"import", "-q", filepath.Join(s.dir, "one-layer.tar"), "one:1"},
		{"save", "-q", "-o", filepath.Join(s.dir, "one.tar"), "one:1"},
		{"rmi", "one:1"},
	} {
		if _, err := s.command(ctx, name, args); err != nil {
			return err
		}
	}
	return nil
}

// cost is what a command took.
type cost struct {
	wall   time.Duration
	memory int64 // largest resident size, bytes
}

func (s *scale) command(ctx context.Context, store string, args []string) (cost, error) {
	cmd := exec.CommandContext(ctx, s.program, append([]string{"--root", filepath.Join(s.dir, store)}, args...)...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	began := time.Now()
	err := cmd.Run()
	c := cost{wall: time.Since(began)}
	if err != nil {
		return c, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, said.String())
	}
	c.memory = maxResident(cmd.ProcessState)
	return c, nil
}

// measure prints a row, and returns how much longer the command takes on the large store,
// by the quickest quarter of the runs, and how long that is.
func (s *scale) measure(ctx context.Context, l line) (ratio float64, many time.Duration, err error) {
	rounds := s.rounds
	if l.rounds > 0 {
		rounds = l.rounds
	}
	walls := map[string][]time.Duration{}
	var memory int64
	for round := range rounds + 1 {
		for _, store := range []string{"few", "many"} {
			c, err := s.command(ctx, store, l.args)
			if err != nil {
				return 0, 0, err
			}
			if l.undo != nil {
				if _, err := s.command(ctx, store, l.undo); err != nil {
					return 0, 0, err
				}
			}
			if round > 0 || rounds == 1 { // the first does not count
				walls[store] = append(walls[store], c.wall)
			}
			memory = max(memory, c.memory)
		}
	}
	quick := func(d []time.Duration) time.Duration {
		slices.Sort(d)
		return d[len(d)/4]
	}
	f, m := quick(walls["few"]), quick(walls["many"])
	ratio = float64(m) / float64(f)
	fmt.Printf("| %s | %.1f | %.1f | %.2f | %d |\n", l.name, ms(f), ms(m), ratio, memory>>20)
	return ratio, m, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
