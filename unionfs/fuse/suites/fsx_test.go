package suites

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/layerfs/layerfs/unionfs/fuse"
)

// fsx runs with these, in turns. Each starts from a lower file (-k), whose size is the
// most that it may become and whose first change is a copy-up.
var fsxModes = []struct {
	size int // bytes
	args []string
}{
	{180_123, nil},                            // reads, writes, mappings, truncation, fallocate, copy_file_range
	{100_000, []string{"-f"}},                 // the page cache dropped after each operation
	{65_537, []string{"-c", "20", "-e", "1"}}, // opened anew now and then, with garbage behind the end
	{256 << 10, []string{"-Z", "-R", "-W", "-r", "512", "-w", "512", "-t", "512"}}, // direct
	{70_001, []string{"-y", "-c", "50"}},                                           // synchronous
	{4 << 20, []string{"-o", "1048576"}},                                           // large requests
}

const fsxOps = 3000 // operations of one run

// TestFsx has fsx change lower files and compare what it reads with what it wrote.
func TestFsx(t *testing.T) {
	fsx := program(t, "bin", "fsx")
	p := newPlace(t, fuse.New(fuse.Options{}), "")
	logs := filepath.Join(p.dir, "logs")
	must(t, os.Mkdir(logs, 0o755))
	const files = 60
	for i := range files {
		text := fill(i, fsxModes[i%len(fsxModes)].size)
		text[1] = text[0] // fsx copies the one to the other to see whether that can be done
		must(t, os.WriteFile(filepath.Join(p.lower, fmt.Sprint(i)), text, 0o644))
	}
	p.mount(t)
	runs, ops := 0, fsxOps
	if !*long {
		ops = 300
	}
	for end := time.Now().Add(duration(3 * time.Second)); time.Now().Before(end); runs++ {
		if runs > 0 && runs%files == 0 { // all are copied up: begin again
			p.unmount(t, false)
			must(t, os.RemoveAll(p.layers.Upper))
			must(t, os.Mkdir(p.layers.Upper, 0o755))
			p.mount(t)
		}
		args := append([]string{"-q", "-k", "-S", fmt.Sprint(runs + 1), "-N", fmt.Sprint(ops), "-P", logs}, fsxModes[runs%len(fsxModes)].args...)
		if _, err := run(t, p.dir, fsx, append(args, filepath.Join(p.root, fmt.Sprint(runs%files)))...); err != nil {
			kept, _ := run(t, logs, "sh", "-c", "tail -n 40 *.fsxlog")
			t.Fatalf("run %d: %v\n%s", runs, err, tail(kept))
		}
	}
	t.Logf("%d runs of %d operations", runs, ops)
}

// fill returns size bytes that differ from place to place and from file to file.
func fill(file, size int) []byte {
	out := make([]byte, 0, size+sha256.Size)
	for i := 0; len(out) < size; i++ {
		sum := sha256.Sum256(fmt.Append(nil, file, i))
		out = append(out, sum[:]...)
	}
	return out[:size]
}
