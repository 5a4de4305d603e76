package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMountinfo limits what is read of the list of mounts, in bytes.
const maxMountinfo = 64 << 20

// tree is a hierarchy as it is mounted.
type tree struct {
	unified     bool
	controllers []string // of version 1; a tree of version 2 says so in each group
	mount       string   // where it is mounted
	base        string   // the topmost directory above the caller's that it may change
}

// mounted is a line of mountinfo (proc_pid_mountinfo(5)) of a cgroup file system.
type mounted struct {
	root, at string
	unified  bool
	options  []string
}

// Mount is a hierarchy as it is mounted.
type Mount struct {
	At          string   // where
	Unified     bool     // of version 2
	Controllers []string // of version 1
}

// Mounted returns the hierarchies of the machine that have controllers, in the order in
// which they are mounted.
func Mounted() ([]Mount, error) {
	trees, err := find(Options{Path: "any"})
	if err != nil {
		return nil, err
	}
	var mounts []Mount
	for _, t := range trees {
		mounts = append(mounts, Mount{t.mount, t.unified, t.controllers})
	}
	return mounts, nil
}

// find returns the hierarchies that are mounted below the root of the options.
func find(o Options) ([]tree, error) {
	if err := checkPath(o.Path); err != nil {
		return nil, err
	}
	root := o.Root
	if root == "" {
		root = defaultRoot
	}
	mountinfo, err := readLimited("/proc/self/mountinfo", maxMountinfo)
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	self, err := readLimited("/proc/self/cgroup", maxFile)
	if err != nil {
		return nil, fmt.Errorf("find own cgroup: %w", err)
	}
	own := parseOwn(self)
	var trees []tree
	for _, m := range parseMountinfo(mountinfo) {
		if m.at != root && !strings.HasPrefix(m.at, root+"/") {
			continue
		}
		t := tree{unified: m.unified, mount: m.at, base: m.at}
		name := ""
		if !m.unified {
			t.controllers = controllersOf(own, m.options)
			if len(t.controllers) == 0 {
				continue // a named tree: an init system's bookkeeping
			}
			name = t.controllers[0]
		}
		if slices.ContainsFunc(trees, func(x tree) bool { return x.unified == t.unified && slices.Equal(x.controllers, t.controllers) }) {
			continue // mounted twice
		}
		t.base = topmost(m.at, within(m.root, own[name]))
		trees = append(trees, t)
	}
	if len(trees) == 0 {
		return nil, fmt.Errorf("find cgroup hierarchies below %s: none is mounted: %w", root, errors.ErrUnsupported)
	}
	return trees, nil
}

func checkPath(name string) error {
	clean := strings.TrimPrefix(name, "/")
	switch {
	case clean == "" || path.Clean(clean) != clean || clean == "." || strings.HasPrefix(clean, "../") || clean == "..":
		return fmt.Errorf("cgroup path %q: not a clean path with a name: %w", name, fs.ErrInvalid)
	case len(name) > maxPath:
		return fmt.Errorf("cgroup path of %d bytes, at most %d: %w", len(name), maxPath, fs.ErrInvalid)
	case strings.ContainsAny(name, "\n\x00"):
		return fmt.Errorf("cgroup path %q: control characters: %w", name, fs.ErrInvalid)
	}
	return nil
}

// parseMountinfo returns the mounts of cgroup file systems.
func parseMountinfo(text string) []mounted {
	var out []mounted
	for line := range strings.SplitSeq(text, "\n") {
		// Most mounts are others, and there may be many.
		const root, at, fields = 3, 4, 5
		place, fstype, ok := strings.Cut(line, " - cgroup")
		if !ok {
			if f := strings.Fields(line); len(out) > 0 && len(f) >= fields { // what it covers cannot be reached
				out = slices.DeleteFunc(out, func(m mounted) bool { return m.at == unescape(f[at]) })
			}
			continue
		}
		f := strings.Fields(place)
		rest := strings.Fields(fstype)
		if len(f) < fields || len(rest) == 0 {
			continue
		}
		m := mounted{root: unescape(f[root]), at: unescape(f[at])}
		switch {
		case strings.HasPrefix(fstype, "2 "):
			m.unified = true
		case !strings.HasPrefix(fstype, " "):
			continue
		}
		m.options = strings.Split(rest[len(rest)-1], ",")
		out = append(out, m)
	}
	return out
}

// unescape undoes the octal escapes of blanks in mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		const escape = 4
		if s[i] == '\\' && i+escape <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+escape], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += escape - 1
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseOwn returns the caller's group by controller, from /proc/self/cgroup
// (cgroups(7)). The one of version 2 has the empty name.
func parseOwn(text string) map[string]string {
	own := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		_, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		names, group, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			own[name] = group
		}
	}
	return own
}

// controllersOf returns those among the options of a mount of version 1.
func controllersOf(own map[string]string, options []string) []string {
	var names []string
	for _, o := range options {
		if _, ok := own[o]; ok && o != "" && !strings.HasPrefix(o, "name=") {
			names = append(names, o)
		}
	}
	return names
}

// within returns a group's path below the group that is the root of a mount.
func within(root, group string) string {
	if root == "/" {
		return group
	}
	rest, ok := strings.CutPrefix(group, root)
	if !ok {
		return "/"
	}
	return "/" + strings.TrimPrefix(rest, "/")
}

// topmost returns the highest directory from the caller's own upwards that the caller
// may make groups in and move processes through.
func topmost(mount, own string) string {
	dir := filepath.Join(mount, path.Clean("/"+own))
	for dir != mount {
		above := filepath.Dir(dir)
		if !mayChange(above) {
			break
		}
		dir = above
	}
	return dir
}

func mayChange(dir string) bool {
	return unix.Access(dir, unix.W_OK|unix.X_OK) == nil && unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) == nil
}
