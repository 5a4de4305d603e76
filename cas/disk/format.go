package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// formatVersion is the version of the store's layout that this package writes. A
// change that old programs would misread makes a new version; one that they can live
// with adds a feature flag.
const formatVersion = 1

// Limits of format.json.
const (
	maxFormatSize = 64 << 10 // bytes
	maxFeatures   = 64       // flags of one kind
	maxFeature    = 64       // bytes in a flag
)

// format is the content of format.json. A flag that a program does not know means:
// compatible, nothing; read-only, it must not write; incompatible, it must not open.
type format struct {
	Version      int      `json:"version"`
	Compatible   []string `json:"compatible"`
	ReadOnly     []string `json:"readonly"`
	Incompatible []string `json:"incompatible"`
}

// features are the flags that this package knows, none so far.
var features = [...]string{}

func newFormat() format {
	return format{Version: formatVersion, Compatible: []string{}, ReadOnly: []string{}, Incompatible: []string{}}
}

func (f format) encode() ([]byte, error) {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode format: %w", err)
	}
	return append(b, '\n'), nil
}

// parseFormat reads format.json. A malformed one wraps fs.ErrInvalid. It does not
// judge whether the store can be used; see check.
func parseFormat(b []byte) (format, error) {
	var f format
	if len(b) > maxFormatSize {
		return f, fmt.Errorf("format.json of more than %d bytes: %w", maxFormatSize, fs.ErrInvalid)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("format.json: %w: %w", err, fs.ErrInvalid)
	}
	if f.Version < 1 {
		return f, fmt.Errorf("format.json: version %d: %w", f.Version, fs.ErrInvalid)
	}
	for _, flags := range [][]string{f.Compatible, f.ReadOnly, f.Incompatible} {
		if len(flags) > maxFeatures {
			return f, fmt.Errorf("format.json: %d feature flags, limit %d: %w", len(flags), maxFeatures, fs.ErrInvalid)
		}
		for _, flag := range flags {
			if flag == "" || len(flag) > maxFeature {
				return f, fmt.Errorf("format.json: feature flag %.70q: %w", flag, fs.ErrInvalid)
			}
		}
	}
	return f, nil
}

// check returns why the store must not be written to, "" when it may be, and an error
// that wraps errors.ErrUnsupported when it must not be opened at all.
func (f format) check() (readOnly string, err error) {
	if f.Version > formatVersion {
		return "", fmt.Errorf("the store has format version %d, this program knows up to %d, use a newer one: %w",
			f.Version, formatVersion, errors.ErrUnsupported)
	}
	if flags := unknown(f.Incompatible); len(flags) > 0 {
		return "", fmt.Errorf("the store uses features that this program does not know (%s), use a newer one: %w",
			strings.Join(flags, ", "), errors.ErrUnsupported)
	}
	if flags := unknown(f.ReadOnly); len(flags) > 0 {
		return fmt.Sprintf("the store uses features that this program can only read (%s)", strings.Join(flags, ", ")), nil
	}
	return "", nil
}

func unknown(flags []string) []string {
	var out []string
	for _, flag := range flags {
		if !slices.Contains(features[:], flag) {
			out = append(out, fmt.Sprintf("%q", flag))
		}
	}
	return out
}
