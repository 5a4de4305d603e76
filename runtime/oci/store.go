package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime"
)

// Limits of what is read.
const (
	maxConfig = 16 << 20 // bytes of a configuration, of a process and of a state
	maxID     = 1024     // bytes
)

// Errors of a container's life.
var (
	ErrNotRunning = fmt.Errorf("container not running: %w", fs.ErrInvalid)
	ErrNotStopped = fmt.Errorf("container is not stopped: %w", unix.EBUSY)
	ErrNotCreated = fmt.Errorf("container is not in the created state: %w", fs.ErrInvalid)
)

// Store is the directory of all containers.
type Store struct{ root string }

// NewStore returns the store in a directory, which need not be there.
func NewStore(root string) *Store { return &Store{root: root} }

// record is state.json.
type record struct {
	ID        string             `json:"id"`
	Pid       int                `json:"pid"`
	StartTime uint64             `json:"startTime"` // of the process, in ticks since boot
	Bundle    string             `json:"bundle"`
	Root      string             `json:"rootfs"`
	Created   time.Time          `json:"created"`
	Cgroup    string             `json:"cgroup"` // "" without one
	Owner     int                `json:"owner"`  // user id
	Gate      *runtime.GateSteps `json:"gate"`
}

// Container is a container of a store, as it was when it was looked at.
type Container struct {
	dir  string
	rec  record
	Spec *specs.Spec
}

// State is what `state` and `list` tell of a container.
type State struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   int       `json:"-"`
}

// Paused is a state beyond those of the specification, as in runc.
const Paused specs.ContainerState = "paused"

func checkID(id string) error {
	if len(id) > maxID || !regexp.MustCompile(`^[a-zA-Z0-9_+.-]+$`).MatchString(id) || id == "." || id == ".." {
		return fmt.Errorf("container id %.80q: letters, digits and _ + . - only: %w", id, fs.ErrInvalid)
	}
	return nil
}

// Load returns a container. One that is not there wraps fs.ErrNotExist.
func (s *Store) Load(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &Container{dir: filepath.Join(s.root, id)}
	if _, err := os.Stat(c.dir); errors.Is(err, fs.ErrNotExist) {
		// Callers look for these words.
		return nil, fmt.Errorf("container %q does not exist: %w", id, fs.ErrNotExist)
	}
	if err := readJSON(filepath.Join(c.dir, "state.json"), &c.rec); err != nil {
		return nil, fmt.Errorf("read state of container %s: %w", id, err)
	}
	c.Spec = &specs.Spec{}
	if err := readJSON(filepath.Join(c.dir, "config.json"), c.Spec); err != nil {
		return nil, fmt.Errorf("read configuration of container %s: %w", id, err)
	}
	return c, nil
}

// List returns all containers, sorted by id. Those that are being made or removed at the
// moment are left out.
func (s *Store) List() ([]*Container, error) {
	entries, err := os.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []*Container
	for _, e := range entries {
		c, err := s.Load(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// ID is the container's name.
func (c *Container) ID() string { return c.rec.ID }

// State says how the container is now.
func (c *Container) State() State {
	s := State{Rootfs: c.rec.Root, Created: c.rec.Created, Owner: c.rec.Owner, State: specs.State{
		Version: specs.Version, ID: c.rec.ID, Status: c.status(), Pid: c.rec.Pid, Bundle: c.rec.Bundle, Annotations: c.Spec.Annotations,
	}}
	if s.Status == specs.StateStopped {
		s.Pid = 0
	}
	return s
}

func (c *Container) status() specs.ContainerState {
	start, alive, err := process(c.rec.Pid)
	if err != nil || !alive || start != c.rec.StartTime {
		return specs.StateStopped
	}
	if _, err := os.Lstat(c.gate()); err == nil {
		return specs.StateCreated
	}
	if g, err := c.group(); err == nil {
		if frozen, err := g.Frozen(); err == nil && frozen {
			return Paused
		}
	}
	return specs.StateRunning
}

// verify fails unless the pid of the container's process is its own still.
func (c *Container) verify() error {
	start, alive, err := process(c.rec.Pid)
	if err != nil || !alive || start != c.rec.StartTime {
		return ErrNotRunning
	}
	return nil
}

func (c *Container) gate() string { return filepath.Join(c.dir, "gate") }

// process returns when a process started, in ticks since boot, and whether it still does
// something (proc_pid_stat(5)).
func process(pid int) (start uint64, alive bool, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	// The name may hold anything, so what counts is behind its last parenthesis.
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const state, startTime = 0, 19
	if len(fields) <= startTime {
		return 0, false, fmt.Errorf("read state of process %d: %d fields: %w", pid, len(fields), fs.ErrInvalid)
	}
	start, err = strconv.ParseUint(fields[startTime], 10, 64)
	return start, !slices.Contains([]string{"Z", "X", "x"}, fields[state]), err
}

func readJSON(path string, to any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	return decode(f, to)
}

// decode reads a document under the limit.
func decode(r io.Reader, to any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return err
	}
	if len(b) > maxConfig {
		return fmt.Errorf("more than %d bytes: %w", maxConfig, fs.ErrInvalid)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	return nil
}

// writeFile writes a file that is there whole or not at all. It lies on a file system that
// does not outlive the machine's run, as containers do not.
func writeFile(path string, content []byte) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(temp, content, 0o600); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func writeJSON(path string, from any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}
