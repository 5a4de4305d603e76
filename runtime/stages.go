package runtime

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A stage is a point of the table at which the child waits for the caller: it reports
// stageMark plus the number of the stage in place of a row, and reads a byte.

// stageMark is above every row.
const stageMark = 1 << 16

// stage is what the caller does meanwhile.
type stage func(ctx context.Context, pid int) error

// needSync makes the pipe on which the child gets the bytes.
func (p *plan) needSync() error {
	if p.sync != nil {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe to wait on: %w", err)
	}
	p.sync, p.syncFrom = w, p.hold(r)
	// The child's own copy of the other end would keep it waiting for a dead caller.
	p.table.call(step{"close", "pipe to wait on"}, unix.SYS_CLOSE, int(w.Fd()))
	return nil
}

// await adds the rows that wait for a byte.
func (t *table) await(what string, from any) {
	t.call(step{"wait for " + what, ""}, unix.SYS_READ, from, at(new([8]byte)), 1)
	t.last().kind = kindOne
}

// reach adds the rows of a stage. It is reported to one descriptor and awaited on the
// other.
func (p *plan) reach(what string, to, from any, do stage) {
	r := &report{row: uint32(stageMark + len(p.stages))}
	p.stages = append(p.stages, do)
	p.table.call(step{"report to have come to " + what, ""}, unix.SYS_WRITE, to, at(r), int(unsafe.Sizeof(*r)))
	if from != nil {
		p.table.await(what, from)
	}
}

// pass does what a stage that was reached is for, and lets the child go on.
func (ch *child) pass(ctx context.Context, number int) error {
	if number >= len(ch.stages) {
		return fmt.Errorf("report of the container's process: stage %d of %d: %w", number, len(ch.stages), fs.ErrInvalid)
	}
	if err := ch.stages[number](ctx, ch.pid); err != nil {
		return err
	}
	return ch.release()
}

func (ch *child) release() error {
	if _, err := ch.sync.Write([]byte{1}); err != nil {
		return fmt.Errorf("let the container's process go on: %w", err)
	}
	return nil
}
