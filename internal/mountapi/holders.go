package mountapi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Finding out who holds a mount is a courtesy of an error message, so it is bounded.
const (
	holdersTime = time.Second
	maxHolders  = 5
)

// holders describes what keeps the mount at target busy: mounts on it, and processes
// that have their root, working directory, an open file or a mapping in it. What
// cannot be read is passed over.
func holders(ctx context.Context, target string) []string {
	ctx, cancel := context.WithTimeout(ctx, holdersTime)
	defer cancel()
	id, ok := mountID(target)
	if !ok {
		return nil
	}
	var found []string
	if mounts, err := List(""); err == nil {
		for _, m := range mounts {
			if uint64(m.Parent) == id {
				found = append(found, "the mount "+m.Target)
			}
		}
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		if ctx.Err() != nil || len(found) >= maxHolders {
			break
		}
		if how := held(ctx, filepath.Join("/proc", p.Name()), id); how != "" {
			name, err := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
			if err != nil {
				name = []byte("?")
			}
			found = append(found, fmt.Sprintf("process %s (%s): %s", p.Name(), strings.TrimSpace(string(name)), how))
		}
	}
	return found
}

// held says how the process uses the mount, or returns "".
func held(ctx context.Context, proc string, id uint64) string {
	for _, link := range []struct{ name, how string }{
		{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "its program"},
	} {
		if got, ok := mountID(filepath.Join(proc, link.name)); ok && got == id {
			return link.how
		}
	}
	for _, dir := range []struct{ name, how string }{{"fd", "open file"}, {"map_files", "mapped file"}} {
		entries, err := os.ReadDir(filepath.Join(proc, dir.name))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return ""
			}
			path := filepath.Join(proc, dir.name, e.Name())
			if got, ok := mountID(path); ok && got == id {
				if file, err := os.Readlink(path); err == nil {
					return dir.how + " " + file
				}
				return dir.how
			}
		}
	}
	return ""
}

// mountID returns the id of the mount in which path ends, as mountinfo has it. It
// does not wait for a file system that has to ask elsewhere.
func mountID(path string) (uint64, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err == nil && st.Mask&unix.STATX_MNT_ID != 0
}

func hasOption(options, name string) bool {
	return slices.Contains(strings.Split(options, ","), name)
}

func list(items []string) string { return strings.Join(items, ", ") }
