package runtime

import (
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime/seccomp"
)

// FilterCalls sets linux.seccomp to the standard profile of containers, or, if given, to
// the one that a text has ([seccomp.Load]). Both depend on the bounding set, so it is
// called when that is settled; [SpecFor] has done so for its own.
func FilterCalls(s *specs.Spec, profile []byte) error {
	if s == nil || s.Process == nil || s.Linux == nil {
		return fmt.Errorf("filter system calls: a specification needs process and linux: %w", fs.ErrInvalid)
	}
	var bounding []string
	if c := s.Process.Capabilities; c != nil {
		bounding = c.Bounding
	}
	var err error
	if profile == nil {
		s.Linux.Seccomp, err = seccomp.Default(bounding)
	} else {
		s.Linux.Seccomp, err = seccomp.Load(profile, bounding)
	}
	return err
}

// filter is a compiled profile to be installed.
type filter struct {
	program *unix.SockFprog
	flags   uint
}

// compileFilter returns nil for no profile.
func compileFilter(s *specs.LinuxSeccomp, logger *slog.Logger) (*filter, error) {
	if s == nil {
		return nil, nil //nolint:nilnil // nothing to install is no failure
	}
	f, err := seccomp.Compile(s)
	if err != nil {
		return nil, err
	}
	if len(f.Unknown) > 0 {
		logger.Debug("seccomp profile names what is not known here", "names", f.Unknown)
	}
	return &filter{&unix.SockFprog{Len: uint16(len(f.Program)), Filter: &f.Program[0]}, f.Flags}, nil
}

// install adds the row that puts the filter into force.
func (t *table) install(f *filter) {
	t.call(step{"install system call filter", ""}, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.flags), at(f.program))
}
