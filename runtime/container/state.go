package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Status is where a container is in its life, a closed set with Docker's names.
type Status string

// The statuses of a container:
//
//	Created → Running ⇄ Paused
//	             │  ▲
//	             │  └ Restarting ┐
//	             └───────────────┴→ Exited → Running, …, Dead
const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting" // it ended, and waits for its next start
	Exited     Status = "exited"
	Dead       Status = "dead" // removing it failed half-way; only removing it again is left
)

// ExitLost is the exit code of a container whose monitor was killed: nobody saw how it
// ended, and SIGKILL is what the kernel sent.
const ExitLost = 128 + 9

// State is what became of a container. It is kept as containers/<id>/state.json.
type State struct {
	Version int    `json:"version"`
	Status  Status `json:"status"`

	Monitor Proc   `json:"monitor,omitzero"` // who runs it
	Process Proc   `json:"process,omitzero"` // its first process
	Cgroup  string `json:"cgroup,omitempty"`

	Started   time.Time `json:"started,omitzero"`
	Finished  time.Time `json:"finished,omitzero"`
	ExitCode  int       `json:"exitCode"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Error     string    `json:"error,omitempty"` // why it could not be started, or was lost
	Restarts  int       `json:"restarts,omitempty"`
	// Stopped says that somebody asked it to end, so that its restart policy rests.
	Stopped bool `json:"stopped,omitempty"`
	// StartAgain asks the monitor to start it again as soon as it has ended.
	StartAgain bool `json:"startAgain,omitempty"`
	// Detached says that it is run by a monitor of its own, not by the command that made
	// it.
	Detached bool `json:"detached,omitempty"`

	Health *HealthState `json:"health,omitempty"`
	// Fleeting says that the container goes when it has ended, as its record says, too.
	Fleeting bool `json:"fleeting,omitempty"`
	// Network is what the network gave it, as the one who attached it wrote it.
	Network json.RawMessage `json:"network,omitempty"`

	// Unattended says that the first process lives and its monitor does not. It is found
	// when the state is read and is not kept.
	Unattended bool `json:"-"`
}

// HealthStatus is what checks of a container's health say, a closed set with Docker's
// names.
type HealthStatus string

// The statuses of health.
const (
	HealthStarting HealthStatus = "starting"
	Healthy        HealthStatus = "healthy"
	Unhealthy      HealthStatus = "unhealthy"
)

// HealthState is the outcome of the latest checks.
type HealthState struct {
	Status   HealthStatus  `json:"status"`
	Failures int           `json:"failures"` // in a row
	Log      []HealthCheck `json:"log,omitempty"`
}

// HealthCheck is one check.
type HealthCheck struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int       `json:"exitCode"` // -1: it did not end in time, or could not be run
	Output   string    `json:"output,omitempty"`
}

// Active tells whether the container has a process, or is about to have one again.
func (s *State) Active() bool {
	switch s.Status {
	case Running, Paused, Restarting:
		return true
	case Created, Exited, Dead:
	}
	return false
}

// lasts tells whether the state has to outlast a power cut. What runs does not outlast
// one, nor what is about to be started, which is its maker's until then.
func (s *State) lasts() bool {
	switch {
	case s.Fleeting, s.Active():
		return false
	case s.Status == Created:
		return s.Monitor == Proc{}
	}
	return true
}

func parseState(data []byte) (*State, error) {
	if len(data) > maxStateBytes {
		return nil, fmt.Errorf("container state of more than %d bytes: %w", maxStateBytes, fs.ErrInvalid)
	}
	var st State
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, fmt.Errorf("parse container state: %w: %w", err, fs.ErrInvalid)
	}
	if st.Version != recordVersion {
		return nil, fmt.Errorf("container state of version %d, this program knows %d: %w", st.Version, recordVersion, errors.ErrUnsupported)
	}
	switch st.Status {
	case Created, Running, Paused, Restarting, Exited, Dead:
	default:
		return nil, fmt.Errorf("container state with status %.40q: %w", st.Status, fs.ErrInvalid)
	}
	return &st, nil
}

// truth corrects a state that says more than is so: its writer may have been killed.
func (s *State) truth() {
	if !s.Active() || s.Monitor.Alive() {
		return
	}
	if s.Process.Alive() {
		s.Unattended = true
		if s.Status == Restarting {
			s.Status = Running
		}
		return
	}
	s.Status, s.ExitCode = Exited, ExitLost
	s.Error = "the process that ran it was killed; how it ended is not known"
	if s.Finished.Before(s.Started) {
		s.Finished = s.Started
	}
	s.Health = nil
}

func encodeState(st *State) ([]byte, error) {
	data, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	_, err = parseState(data)
	return data, err
}
