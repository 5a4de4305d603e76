package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Record is what was asked for: it changes only by rename and update. It is kept as
// containers/<id>/container.json.
type Record struct {
	Version int       `json:"version"`
	ID      ID        `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`

	// What it stands on. The snapshot is opaque here; one that is not Owned was there
	// before the container and stays when it is removed.
	Image    string `json:"image"`             // as it was named
	ImageID  string `json:"imageID,omitempty"` // digest of the image's config
	Snapshot string `json:"snapshot"`
	Owned    bool   `json:"owned"`
	Driver   string `json:"driver,omitempty"` // union file system asked for; "" is any

	Runtime string `json:"runtime,omitempty"` // path of the OCI runtime that runs it; "" is the built-in launcher

	// The process.
	Entrypoint []string            `json:"entrypoint,omitempty"`
	Command    []string            `json:"command,omitempty"`
	Env        []string            `json:"env,omitempty"`
	Cwd        string              `json:"cwd,omitempty"`
	User       string              `json:"user,omitempty"`
	Terminal   bool                `json:"terminal,omitempty"`
	Stdin      bool                `json:"stdin,omitempty"`     // it has a standard input that can be written to
	StdinOnce  bool                `json:"stdinOnce,omitempty"` // which ends with the first client that ends it
	Init       bool                `json:"init,omitempty"`      // a small init is its first process
	Rlimits    []specs.POSIXRlimit `json:"rlimits,omitempty"`

	// Isolation.
	Hostname        string                `json:"hostname,omitempty"`
	PID             string                `json:"pid,omitempty"` // whose processes it sees: "" its own, host or container:NAME
	IPC             string                `json:"ipc,omitempty"` // "" its own, host, or none: its own without /dev/shm
	UTS             string                `json:"uts,omitempty"` // whose host name it has: "" its own, or host
	ReadOnly        bool                  `json:"readOnly,omitempty"`
	CapAdd          []string              `json:"capAdd,omitempty"`
	CapDrop         []string              `json:"capDrop,omitempty"`
	NoNewPrivileges bool                  `json:"noNewPrivileges,omitempty"`
	Seccomp         string                `json:"seccomp,omitempty"` // "", unconfined, or the JSON of a profile
	AppArmor        string                `json:"apparmor,omitempty"`
	SELinux         string                `json:"selinux,omitempty"` // label of the process, "" for none
	Privileged      bool                  `json:"privileged,omitempty"`
	Groups          []uint32              `json:"groups,omitempty"` // besides the user's
	OOMScoreAdj     *int                  `json:"oomScoreAdj,omitempty"`
	Sysctls         map[string]string     `json:"sysctls,omitempty"`
	Mounts          []Mount               `json:"mounts,omitempty"`
	Devices         []Device              `json:"devices,omitempty"`
	ShmSize         int64                 `json:"shmSize,omitempty"` // bytes of /dev/shm; 0 is the default
	Resources       *specs.LinuxResources `json:"resources,omitempty"`

	// Network, as it was asked for: package network reads it.
	Networks   []string `json:"networks,omitempty"` // none is the default network
	Ports      []string `json:"ports,omitempty"`    // published
	Exposed    []string `json:"exposed,omitempty"`  // that the image or a flag names, PORT/PROTOCOL
	DNS        []string `json:"dns,omitempty"`
	DNSSearch  []string `json:"dnsSearch,omitempty"`
	DNSOptions []string `json:"dnsOptions,omitempty"`
	Hosts      []string `json:"hosts,omitempty"`
	Links      []string `json:"links,omitempty"` // CONTAINER[:ALIAS]

	// Life.
	Remove      bool          `json:"remove,omitempty"` // when it has ended
	Restart     RestartPolicy `json:"restart"`
	StopSignal  string        `json:"stopSignal,omitempty"`
	StopTimeout *int          `json:"stopTimeout,omitempty"` // seconds; nil is DefaultStopTimeout, negative waits for ever
	Health      *Health       `json:"health,omitempty"`
	Log         LogConfig     `json:"log"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"` // of the OCI specification
}

// DefaultStopTimeout is how long a container has to end after it was asked to, in
// seconds, as in Docker.
const DefaultStopTimeout = 10

// MountKind is what is mounted in a container, a closed set with Docker's names.
type MountKind string

// The kinds of mount.
const (
	MountBind   MountKind = "bind"
	MountVolume MountKind = "volume"
	MountTmpfs  MountKind = "tmpfs"
)

// Mount is something of the host, a volume or memory in the file system of a container.
type Mount struct {
	Kind      MountKind `json:"kind"`
	Source    string    `json:"source,omitempty"` // path of a bind, name of a volume
	Target    string    `json:"target"`
	ReadOnly  bool      `json:"readOnly,omitempty"`
	Options   []string  `json:"options,omitempty"`   // of the OCI specification, beyond ro and bind
	NoCopy    bool      `json:"noCopy,omitempty"`    // do not fill an empty volume from the image
	Anonymous bool      `json:"anonymous,omitempty"` // a volume made for this container alone
}

// Device is a device of the host for a container.
type Device struct {
	Source string `json:"source"` // on the host
	Target string `json:"target"`
	Access string `json:"access"` // of "rwm"
}

// LogConfig says where the output of a container is kept.
type LogConfig struct {
	Driver      string `json:"driver"`                // LogJSON or LogNone
	MaxSize     int64  `json:"maxSize,omitempty"`     // bytes of one file; 0 is no limit
	MaxFiles    int    `json:"maxFiles,omitempty"`    // kept; 0 is 1
	NonBlocking bool   `json:"nonBlocking,omitempty"` // rather lose output than hold the container
	BufferSize  int64  `json:"bufferSize,omitempty"`  // bytes; of NonBlocking
}

// The log drivers, with Docker's names.
const (
	LogJSON = "json-file"
	LogNone = "none"
)

// Health is a command that tells whether a container is well.
type Health struct {
	Test          []string      `json:"test"` // the command and its arguments
	Interval      time.Duration `json:"interval"`
	Timeout       time.Duration `json:"timeout"`
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`   // in which failures do not count
	StartInterval time.Duration `json:"startInterval,omitempty"` // between checks in it
	Retries       int           `json:"retries"`                 // failures in a row that make it unhealthy
}

const recordVersion = 1

// Limits on what is kept of a container.
const (
	maxRecordBytes = 4 << 20 // of container.json: the environment and a seccomp profile are in it
	maxStateBytes  = 1 << 20 // of state.json
	maxMounts      = 1024
)

// parseRecord reads and checks the JSON of a record.
func parseRecord(data []byte) (*Record, error) {
	if len(data) > maxRecordBytes {
		return nil, fmt.Errorf("container record of more than %d bytes: %w", maxRecordBytes, fs.ErrInvalid)
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("parse container record: %w: %w", err, fs.ErrInvalid)
	}
	if rec.Version != recordVersion {
		return nil, fmt.Errorf("container record of version %d, this program knows %d: %w", rec.Version, recordVersion, errors.ErrUnsupported)
	}
	if _, err := ParseID(string(rec.ID)); err != nil {
		return nil, err
	}
	if name, err := ParseName(rec.Name); err != nil || name != rec.Name {
		return nil, errors.Join(fmt.Errorf("container record with the name %.140q: %w", rec.Name, fs.ErrInvalid), err)
	}
	if err := rec.Restart.check(); err != nil {
		return nil, err
	}
	switch rec.Log.Driver {
	case LogJSON, LogNone:
	default:
		return nil, fmt.Errorf("container record with log driver %.40q: %w", rec.Log.Driver, fs.ErrInvalid)
	}
	if len(rec.Mounts) > maxMounts {
		return nil, fmt.Errorf("container record with %d mounts, limit %d: %w", len(rec.Mounts), maxMounts, fs.ErrInvalid)
	}
	for _, m := range rec.Mounts {
		switch m.Kind {
		case MountBind, MountVolume, MountTmpfs:
		default:
			return nil, fmt.Errorf("container record with a mount of kind %.40q: %w", m.Kind, fs.ErrInvalid)
		}
	}
	return &rec, nil
}

// encodeRecord refuses what parseRecord would refuse.
func encodeRecord(rec *Record) ([]byte, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	_, err = parseRecord(data)
	return data, err
}
