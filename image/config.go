package image

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"time"

	"github.com/layerfs/layerfs/image/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is what an image's config says: the fields of OCI and those that only Docker
// has. It is a view; the bytes it was parsed from stay what identifies the image, and
// hold whatever other fields there are.
type Config struct {
	Created      *time.Time    `json:"created,omitempty"`
	Author       string        `json:"author,omitempty"`
	Architecture string        `json:"architecture"`
	Variant      string        `json:"variant,omitempty"`
	OS           string        `json:"os"`
	OSVersion    string        `json:"os.version,omitempty"`
	OSFeatures   []string      `json:"os.features,omitempty"`
	Config       ProcessConfig `json:"config"`
	RootFS       RootFS        `json:"rootfs"`
	History      []History     `json:"history,omitempty"`
	Comment      string        `json:"comment,omitempty"` // of old Docker versions
}

// RootFS names the layers, bottom to top.
type RootFS struct {
	Type    string          `json:"type"`
	DiffIDs []digest.Digest `json:"diff_ids"`
}

// History is one step of how the image was made.
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Author     string     `json:"author,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"`
}

// ProcessConfig is how a container of the image runs unless it is told otherwise.
type ProcessConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   Args                `json:"Entrypoint,omitempty"`
	Cmd          Args                `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	StopTimeout  *int                `json:"StopTimeout,omitempty"` // seconds
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"` // Windows only
	Healthcheck  *Healthcheck        `json:"Healthcheck,omitempty"`
	OnBuild      []string            `json:"OnBuild,omitempty"`
	Shell        Args                `json:"Shell,omitempty"`
}

// Healthcheck is a command that tells whether a container is well. Durations are in
// nanoseconds, zero for the default.
type Healthcheck struct {
	Test          Args          `json:"Test,omitempty"` // {"NONE"}, {"CMD", …} or {"CMD-SHELL", command}
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// Args is a list of arguments. Old versions of Docker wrote a list of one as a plain
// string, which is read too.
type Args []string

// UnmarshalJSON reads a list of strings, one string or null.
func (a *Args) UnmarshalJSON(data []byte) error {
	var one string
	if len(data) > 0 && data[0] == '"' {
		if err := json.Unmarshal(data, &one); err != nil {
			return err
		}
		*a = Args{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// ParseConfig parses an image's config. An error wraps fs.ErrInvalid.
func ParseConfig(data []byte) (*Config, error) {
	c, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	return c, nil
}

func parseConfig(data []byte) (*Config, error) {
	if err := CheckJSON(data, MaxConfig); err != nil {
		return nil, err
	}
	var c Config
	if err := unmarshal(data, &c); err != nil {
		return nil, err
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("rootfs of type %.100q instead of \"layers\": %w", c.RootFS.Type, fs.ErrInvalid)
	}
	if n := len(c.RootFS.DiffIDs); n > MaxLayers {
		return nil, fmt.Errorf("%d layers, limit %d: %w", n, MaxLayers, fs.ErrInvalid)
	}
	for i, d := range c.RootFS.DiffIDs {
		if _, err := reference.ParseDigest(string(d)); err != nil {
			return nil, fmt.Errorf("diff_id %d of %d: %w", i+1, len(c.RootFS.DiffIDs), err)
		}
	}
	if n := len(c.History); n > MaxHistory {
		return nil, fmt.Errorf("%d history entries, limit %d: %w", n, MaxHistory, fs.ErrInvalid)
	}
	return &c, nil
}

// Platform returns what the image says it runs on.
func (c *Config) Platform() ocispec.Platform {
	return normalize(ocispec.Platform{
		OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures,
	})
}
