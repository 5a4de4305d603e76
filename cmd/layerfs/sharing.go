package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/container/bundle"
)

// otherContainer is how a namespace of another container is asked for.
const otherContainer = "container:"

// share says which namespaces a container shares with others, as --pid, --ipc and --uts
// have it.
func (o *createOptions) share(rec *container.Record) error {
	other, isOther := strings.CutPrefix(o.pid, otherContainer)
	switch {
	case o.pid == "" || o.pid == "private":
	case o.pid != bundle.HostNamespace && (!isOther || other == ""):
		return usageError{fmt.Errorf("--pid %q: want private, host or container:NAME", o.pid)}
	case o.init:
		return usageError{errors.New("--init and --pid exclude each other: only the first process of a pid namespace is given those that lost their parent")}
	default:
		rec.PID = o.pid
	}
	switch {
	case o.ipc == "private":
	case o.ipc == bundle.HostNamespace || o.ipc == bundle.NoShm:
		if o.flags.Changed("shm-size") {
			return usageError{fmt.Errorf("--shm-size and --ipc %s exclude each other: there is no /dev/shm of its own", o.ipc)}
		}
		rec.IPC = o.ipc
	case o.ipc == "shareable" || strings.HasPrefix(o.ipc, otherContainer):
		return usageError{fmt.Errorf("--ipc %q: the /dev/shm of a container cannot be shared; mount a volume in both, or use --ipc host", o.ipc)}
	default:
		return usageError{fmt.Errorf("--ipc %q: want private, none or host", o.ipc)}
	}
	switch o.uts {
	case "", "private":
	case bundle.HostNamespace:
		if o.hostname != "" {
			return usageError{errors.New("--hostname and --uts host exclude each other")}
		}
		rec.UTS = o.uts
	default:
		return usageError{fmt.Errorf("--uts %q: want private or host", o.uts)}
	}
	return nil
}

// shareProcesses opens the pid namespace that a container is to share and names it for
// its specification. The file, which may be nil, is open until the container has started.
func (a *app) shareProcesses(ctx context.Context, rec *container.Record, h *bundle.Host) (_ *os.File, err error) {
	switch rec.PID {
	case "":
		return nil, nil
	case bundle.HostNamespace:
		if a.ids != nil {
			return nil, usageError{errors.New("--pid host takes root: the kernel shows an ordinary user's container no processes but its own; --pid container:NAME shares another's")}
		}
		h.PID = bundle.HostNamespace
		return nil, nil
	}
	_, other, err := a.container(ctx, strings.TrimPrefix(rec.PID, otherContainer))
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("share the processes of container %s: %w", other.Name, err)
	}
	if !other.State.Active() {
		return fail(container.ErrNotActive)
	}
	f, err := os.Open("/proc/" + strconv.Itoa(other.State.Process.Pid) + "/ns/pid")
	if err != nil {
		return fail(err)
	}
	// It ran when the namespace was opened, if it does now.
	if err := other.State.Process.Verify(); err != nil {
		return fail(errors.Join(err, container.ErrNotActive, f.Close()))
	}
	h.PID = "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	return f, nil
}
