package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/layerfs/layerfs/runtime/cgroup"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/spf13/cobra"
)

// statsRow is what is printed of what a container uses, with Docker's names.
type statsRow struct {
	ID       string `json:"ID"`
	Name     string `json:"Name"`
	CPUPerc  string `json:"CPUPerc"`
	MemUsage string `json:"MemUsage"`
	MemPerc  string `json:"MemPerc"`
	NetIO    string `json:"NetIO"`
	BlockIO  string `json:"BlockIO"`
	PIDs     uint64 `json:"PIDs"`
}

type statsOptions struct {
	output outputFlags
	all    bool
	once   bool
	full   bool
}

func newStatsCmd(a *app) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:   "stats [flags] [CONTAINER...]",
		Short: "Show what containers use of processors, memory and devices",
		Long: `Stats shows what the containers named, or all that run, use, and does so anew each
second until it is interrupted.`,
		ValidArgsFunction: a.completeContainers(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runStats(cmd.Context(), o, args) },
	}
	o.output.add(cmd, "each container", "")
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "show those that do not run, too")
	cmd.Flags().BoolVar(&o.once, "no-stream", false, "show it once")
	cmd.Flags().BoolVar(&o.full, "no-trunc", false, "print ids whole")
	return cmd
}

// sample is what a container had used at a time.
type sample struct {
	at    time.Time
	stats cgroup.Stats
}

// statsStep is the time over which the use of processors is taken.
const statsStep = time.Second

func (a *app) runStats(ctx context.Context, o statsOptions, words []string) error {
	before := map[container.ID]sample{}
	if _, err := a.statsRows(ctx, o, words, before); err != nil {
		return err
	}
	const clearScreen = "\x1b[2J\x1b[H"
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(statsStep):
		}
		rows, err := a.statsRows(ctx, o, words, before)
		if err != nil {
			return err
		}
		if !o.once && o.output.format == formatTable && a.toTerminal() {
			if _, err := io.WriteString(a.stdout, clearScreen); err != nil {
				return err
			}
		}
		err = printRows(a.stdout, o.output, rows, func(r statsRow) string { return r.ID }, []column[statsRow]{
			{"CONTAINER ID", func(r statsRow) string { return r.ID }},
			{"NAME", func(r statsRow) string { return r.Name }},
			{"CPU %", func(r statsRow) string { return r.CPUPerc }},
			{"MEM USAGE / LIMIT", func(r statsRow) string { return r.MemUsage }},
			{"MEM %", func(r statsRow) string { return r.MemPerc }},
			{"NET I/O", func(r statsRow) string { return r.NetIO }},
			{"BLOCK I/O", func(r statsRow) string { return r.BlockIO }},
			{"PIDS", func(r statsRow) string { return strconv.FormatUint(r.PIDs, 10) }},
		})
		if err != nil || o.once {
			return err
		}
	}
}

// toTerminal tells whether standard output is a terminal.
func (a *app) toTerminal() bool {
	f, ok := a.stdout.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func (a *app) statsRows(ctx context.Context, o statsOptions, words []string, before map[container.ID]sample) ([]statsRow, error) {
	var list []*container.Container
	if len(words) == 0 {
		s, err := a.containers(ctx)
		if err != nil {
			return nil, err
		}
		err = s.Walk(ctx, func(c *container.Container) error {
			if o.all || c.State.Active() {
				list = append(list, c)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, word := range words {
		_, c, err := a.container(ctx, word)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	memory := machineMemory()
	rows := make([]statsRow, len(list))
	for i, c := range list {
		row := statsRow{ID: c.ID.Short(), Name: c.Name, CPUPerc: "0.00%", MemUsage: "0B / 0B", MemPerc: "0.00%", NetIO: "0B / 0B", BlockIO: "0B / 0B"}
		if o.full {
			row.ID = string(c.ID)
		}
		if c.State.Active() && c.State.Process.Pid != 0 {
			if err := fillStats(&row, c, before, memory); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("container %s: %w", c.Name, err)
			}
		}
		rows[i] = row
	}
	return rows, nil
}

func fillStats(row *statsRow, c *container.Container, before map[container.ID]sample, machine uint64) error {
	received, sent, err := netCounters(c.State.Process.Pid)
	if err != nil {
		return err
	}
	row.NetIO = size(received) + " / " + size(sent)
	group, err := groupOf(c)
	if errors.Is(err, errors.ErrUnsupported) {
		row.CPUPerc, row.MemUsage, row.MemPerc, row.BlockIO = "--", "-- / --", "--", "-- / --" // nothing counts them
		return nil
	}
	if err != nil {
		return err
	}
	st, err := group.Stats()
	if err != nil {
		return err
	}
	now := sample{time.Now(), st}
	if last, ok := before[c.ID]; ok && st.CPU.Usage >= last.stats.CPU.Usage {
		used := st.CPU.Usage - last.stats.CPU.Usage
		row.CPUPerc = fmt.Sprintf("%.2f%%", 100*float64(used)/float64(now.at.Sub(last.at)))
	}
	before[c.ID] = now
	limit := st.Memory.Limit
	if limit == 0 || limit > machine {
		limit = machine
	}
	used := st.Memory.Usage - min(st.Memory.Usage, st.Memory.Inactive)
	row.MemUsage = binarySize(used) + " / " + binarySize(limit)
	if limit > 0 {
		row.MemPerc = fmt.Sprintf("%.2f%%", 100*float64(used)/float64(limit))
	}
	row.BlockIO = size(int64(st.IO.ReadBytes)) + " / " + size(int64(st.IO.WriteBytes))
	row.PIDs = st.Pids.Current
	return nil
}

// netCounters sums what the interfaces of a process's network have received and sent, in
// bytes, the loopback aside (proc_pid_net(5)).
func netCounters(pid int) (received, sent int64, err error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return 0, 0, err
	}
	defer join(&err, f.Close)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, counts, ok := strings.Cut(lines.Text(), ":")
		n := strings.Fields(counts)
		const rx, tx = 0, 8
		if !ok || len(n) <= tx || strings.TrimSpace(name) == "lo" {
			continue
		}
		in, err1 := parseInt(n[rx])
		out, err2 := parseInt(n[tx])
		if err := errors.Join(err1, err2); err != nil {
			return 0, 0, err
		}
		received += in
		sent += out
	}
	return received, sent, lines.Err()
}

// machineMemory is what the machine has, in bytes; 0 when that is not known.
func machineMemory() uint64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data)) // MemTotal: N kB
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.ParseUint(f[1], 10, 50)
	if err != nil {
		return 0
	}
	return n << 10
}

// binarySize prints bytes in powers of 1024, as Docker prints memory.
func binarySize(n uint64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	return strconv.FormatFloat(f, 'g', 4, 64) + unit
}
