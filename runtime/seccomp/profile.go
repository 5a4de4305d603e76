package seccomp

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits of a profile.
const (
	maxProfile = 1 << 20 // bytes of JSON
	maxRules   = 4096
	maxNames   = 4096 // in one rule
	maxName    = 64   // bytes of the name of a call or architecture
	maxArgs    = 6    // conditions of a rule, and arguments of a call
)

var errUnsupported = errors.ErrUnsupported

// Default returns the standard profile of containers, as Docker has it, for a process
// with these capabilities in its bounding set, on this machine and kernel.
func Default(bounding []string) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(holder(bounding))
	if err != nil {
		return nil, fmt.Errorf("make default seccomp profile: %w", err)
	}
	return p, nil
}

// Load reads a profile as Docker writes them: in JSON, with rules that depend on
// capabilities, architecture and kernel; what the OCI runtime specification has as
// linux.seccomp is one, too. The result is nil for a profile that filters nothing.
func Load(text []byte, bounding []string) (*specs.LinuxSeccomp, error) {
	if len(text) > maxProfile {
		return nil, fmt.Errorf("read seccomp profile: %d bytes, at most %d: %w", len(text), maxProfile, fs.ErrInvalid)
	}
	p, err := seccomp.LoadProfile(string(text), holder(bounding))
	if err != nil {
		return nil, fmt.Errorf("read seccomp profile: %w: %w", fs.ErrInvalid, err)
	}
	return p, nil
}

// holder is a specification with nothing but capabilities.
func holder(bounding []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: bounding}}}
}
