package compress

import (
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// ParseLevel is the inverse of [Level.String]; an error wraps fs.ErrInvalid. Whether a
// format has the level is for [NewWriter] to say.
func ParseLevel(s string) (Level, error) {
	name, encoder := s, Level(0)
	if rest, ok := strings.CutPrefix(s, "serial-"); ok {
		name, encoder = rest, Serial
	} else if rest, ok := strings.CutPrefix(s, "pgzip-"); ok {
		name, encoder = rest, Pgzip
	}
	if name == "default" {
		return encoder, nil
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if level := encoder + Level(n); err == nil && Level(n) < Serial && level.String() == s {
		return level, nil
	}
	return 0, fmt.Errorf("compression level %.20q: %w", s, fs.ErrInvalid)
}

// encoderModule is the module of all encoders but that of the standard library.
const encoderModule = "github.com/klauspost/compress"

// EncoderVersion names the library and the version that [NewWriter] compresses with: as
// long as it is the same, the same input gives the same bytes. A program that was built
// without that information gives "".
func EncoderVersion(f Format, l Level) string {
	if _, encoder := l.split(); f == Gzip && encoder == Serial {
		return runtime.Version()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path != encoderModule {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		return m.Path + "@" + m.Version
	}
	return ""
}
