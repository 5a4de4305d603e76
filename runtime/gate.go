package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// GateSteps are what is left to do for a container that stands at its gate. They can be
// written as JSON and read by another process.
type GateSteps struct {
	First int         `json:"first"` // the row of the first
	Steps [][2]string `json:"steps"` // what is tried, and on what

	stage int
}

// GateSteps returns the steps left of a process that was started with Config.Gate, else
// nil.
func (p *Process) GateSteps() *GateSteps { return p.gate }

func (p *plan) gateSteps() *GateSteps {
	if p.gate == nil {
		return nil
	}
	g := &GateSteps{First: p.gateRow, stage: p.gateStage}
	for _, s := range p.table.steps[p.gateRow:] {
		g.Steps = append(g.Steps, [2]string{s.what, s.object})
	}
	return g
}

// OpenGate lets a container go that stands at its gate, given by the path of the socket,
// and returns once its program runs, or why it does not, as [Start]. Hooks of the start
// and after it are run. A gate that is open already wraps fs.ErrNotExist or
// unix.ECONNREFUSED.
//
// Of the configuration it takes the specification's hooks, ID, Bundle and Logger; pid is the
// container's process.
func OpenGate(ctx context.Context, socket string, pid int, g *GateSteps, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := checkHooks(c.Spec.Hooks); err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("open the container's gate: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // closed: then nobody reads
	})
	defer stop()
	state := c.state(specs.StateCreated, pid)
	ch := &child{pid: pid, sync: conn}
	for range g.First {
		ch.steps = append(ch.steps, step{"do what was done before", ""})
	}
	for _, s := range g.Steps {
		ch.steps = append(ch.steps, step{s[0], s[1]})
	}
	// What stages there were before do not come again.
	late := func(ctx context.Context, _ int) error {
		return runInside(ctx, "startContainer", c.Spec.Hooks.StartContainer, state, false, c.Logger)
	}
	for range maxStages {
		ch.stages = append(ch.stages, late)
	}
	err = ch.follow(ctx, conn)
	if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		err = fmt.Errorf("open the container's gate: %w", context.Cause(ctx))
	}
	if err = errors.Join(err, conn.Close()); err != nil || c.Spec.Hooks == nil {
		return err
	}
	return RunHooks(ctx, "poststart", c.Spec.Hooks.Poststart, c.state(specs.StateRunning, pid))
}

// maxStages is how many stages a table has at most.
const maxStages = 4
