package archtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// initialisers are the packages that allocate much before main begins, with the bytes that
// each may: every command pays for them, and a container's start twice. A package that is
// new here should be done without, or be linked into a program of its own; see
// docs/decisions/0017-what-every-start-costs.md.
var initialisers = map[string]int{
	"github.com/opencontainers/go-digest":            112 << 10, // regular expressions
	"github.com/hanwen/go-fuse/v2/fuse":              60 << 10,  // names of operations
	"github.com/mikelolasagasti/xz":                  40 << 10,  // tables of CRC64
	"github.com/klauspost/compress/flate":            32 << 10,  // fixed codes
	"github.com/klauspost/compress/internal/snapref": 12 << 10,  // a table of CRC32
	"github.com/google/nftables":                     8 << 10,
	"unicode":                                        16 << 10,
	"debug/dwarf":                                    10 << 10,
	"compress/flate":                                 8 << 10,
}

// leastBytes is what a package may allocate without being named.
const leastBytes = 4 << 10

// TestInitialisers looks what the start of the program allocates, which is the same on
// every machine, where its time is not.
func TestInitialisers(t *testing.T) {
	program := filepath.Join(t.TempDir(), "layerfs")
	build := exec.Command("go", "build", "-o", program, module+"/cmd/layerfs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	version := exec.Command(program, "version")
	version.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var trace bytes.Buffer
	version.Stderr = &trace
	if err := version.Run(); err != nil {
		t.Fatalf("layerfs version: %v\n%s", err, trace.Bytes())
	}
	seen := map[string]bool{}
	for line := range strings.Lines(trace.String()) {
		// From package runtime: "init PATH @T ms, T ms clock, BYTES bytes, N allocs".
		f := strings.Fields(line)
		const path, amount, unit = 1, 7, 8
		if len(f) <= unit || f[0] != "init" || f[unit] != "bytes," {
			continue
		}
		n, err := strconv.Atoi(f[amount])
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		seen[f[path]] = true
		limit, named := initialisers[f[path]]
		switch {
		case !named && n > leastBytes:
			t.Errorf("package %s allocates %d bytes at every start: do without it, or name it in the table", f[path], n)
		case named && n > limit:
			t.Errorf("package %s allocates %d bytes at every start, it may %d", f[path], n, limit)
		case named && n <= leastBytes:
			t.Errorf("package %s allocates %d bytes at every start: take it out of the table", f[path], n)
		}
	}
	for path := range initialisers {
		if !seen[path] {
			t.Errorf("package %s is no part of the program any more: take it out of the table", path)
		}
	}
}
