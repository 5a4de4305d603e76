package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxMounts limits the mounts of a specification, well below what the kernel allows in
// a namespace (fs.mount-max).
const maxMounts = 4096

// Mount options that are attributes of a mount and not of a file system
// (mount_setattr(2)): what they set and what they clear.
var attributes = map[string]unix.MountAttr{
	"ro":            {Attr_set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {Attr_clr: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {Attr_set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {Attr_clr: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {Attr_set: unix.MOUNT_ATTR_NODEV},
	"dev":           {Attr_clr: unix.MOUNT_ATTR_NODEV},
	"noexec":        {Attr_set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {Attr_clr: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":    {Attr_set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {Attr_clr: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow":   {Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {Attr_clr: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"relatime":      {Attr_clr: unix.MOUNT_ATTR__ATIME},
	"noatime":       {Attr_set: unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {Attr_set: unix.MOUNT_ATTR_STRICTATIME, Attr_clr: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {},
	"nostrictatime": {},
	"defaults":      {},
}

// How mounts and unmounts travel (mount_namespaces(7)).
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE,
}

// mountPlan is a mount of the specification, its options sorted out.
type mountPlan struct {
	to        string // clean path in the root without a leading "/"
	kind      string // "bind" or the type of a file system
	source    string
	recursive bool // of a bind: with what is mounted below
	attr      unix.MountAttr
	data      []string // options of the file system, as "key" or "key=value"
	idmap     bool     // of a bind: with shifted owners
	idmapAll  bool     // also of what is mounted below
	mapping   mapping  // of the owners; empty: the container's
}

// IsBind tells whether a mount of a specification is a bind mount.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func planMount(m specs.Mount) (mountPlan, error) {
	p := mountPlan{kind: m.Type, source: m.Source}
	p.attr.Propagation = unix.MS_PRIVATE
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		p.idmap, p.mapping = true, mapping{m.UIDMappings, m.GIDMappings}
	}
	if !path.IsAbs(m.Destination) {
		return p, fmt.Errorf("mount on %q: not an absolute path: %w", m.Destination, fs.ErrInvalid)
	}
	p.to = strings.TrimPrefix(path.Clean(m.Destination), "/")
	if p.to == "" {
		return p, fmt.Errorf("mount on the root itself: %w", fs.ErrInvalid)
	}
	for _, o := range m.Options {
		if a, ok := attributes[o]; ok {
			if a.Attr_clr&unix.MOUNT_ATTR__ATIME != 0 {
				p.attr.Attr_set &^= unix.MOUNT_ATTR__ATIME
			}
			p.attr.Attr_set = p.attr.Attr_set&^a.Attr_clr | a.Attr_set
			p.attr.Attr_clr = p.attr.Attr_clr&^a.Attr_set | a.Attr_clr
			continue
		}
		if how, ok := propagations[o]; ok {
			p.attr.Propagation = how
			continue
		}
		switch o {
		case "bind":
			p.kind = "bind"
		case "rbind":
			p.kind, p.recursive = "bind", true
		case "idmap":
			p.idmap = true
		case "ridmap":
			p.idmap, p.idmapAll = true, true
		case "tmpcopyup":
			return p, fmt.Errorf("mount on %s with option tmpcopyup: %w", m.Destination, errors.ErrUnsupported)
		default:
			p.data = append(p.data, o)
		}
	}
	switch p.kind {
	case "":
		return p, fmt.Errorf("mount on %s: no type: %w", m.Destination, fs.ErrInvalid)
	case "none":
		return p, fmt.Errorf("mount on %s: type none without bind: %w", m.Destination, fs.ErrInvalid)
	case "bind":
		if len(p.data) > 0 {
			return p, fmt.Errorf("mount %s on %s: option %q does not fit a bind mount: %w", m.Source, m.Destination, p.data[0], fs.ErrInvalid)
		}
	}
	if p.idmap && p.kind != "bind" {
		return p, fmt.Errorf("mount %s on %s with shifted owners: %w", p.kind, m.Destination, errors.ErrUnsupported)
	}
	return p, nil
}

// clone takes the source of a bind mount as a detached mount with the attributes
// asked for, and tells whether it is a directory. Owners are shifted by a user namespace.
func (p *mountPlan) clone(shift *os.File) (f *os.File, dir bool, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	var below uint
	if p.recursive {
		flags |= unix.AT_RECURSIVE
		below = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, p.source, flags)
	if err != nil {
		return nil, false, &Error{Step: "take for a bind mount", Object: p.source, Err: err}
	}
	f = os.NewFile(uintptr(fd), p.source)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, false, errors.Join(&Error{Step: "look at", Object: p.source, Err: err}, f.Close())
	}
	// Kernel sources: MS_PRIVATE first, so that no mount made in the container comes
	// back to the host, then what was asked for.
	attr := p.attr
	attr.Propagation = unix.MS_PRIVATE
	if p.attr.Propagation == unix.MS_SLAVE || p.attr.Propagation == unix.MS_SHARED {
		attr.Propagation = p.attr.Propagation
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|below, &attr); err != nil {
		return nil, false, errors.Join(&Error{Step: "set attributes of bind mount", Object: p.source, Err: err}, f.Close())
	}
	if shift != nil {
		below = 0
		if p.idmapAll {
			below = unix.AT_RECURSIVE
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(shift.Fd())}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|below, &attr); err != nil {
			return nil, false, errors.Join(&Error{Step: "shift owners of bind mount", Object: p.source, Err: err}, f.Close())
		}
	}
	return f, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// stepProtected opens the place of proc or sysfs.
const stepProtected = "open mount point"

// below tells whether a path lies in or under a directory, both clean and relative.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// target adds the rows that open the place of a mount. Where it lies below an earlier
// mount, which the parent cannot see, they make what is missing, without following
// links to nothing.
func (t *table) target(root any, to string, dir, make bool, more uint64) result {
	flags := unix.O_PATH
	if dir {
		flags |= unix.O_DIRECTORY
	}
	if make {
		t.makeBelow(root, to, dir)
	}
	return t.open(step{stepProtected, "/" + to}, root, to, flags, more)
}

// makeBelow adds rows that make a directory or an empty file in the root and the
// directories on the way.
func (t *table) makeBelow(root any, to string, dir bool) {
	parent := root
	names := strings.Split(to, "/")
	for i, name := range names {
		so := strings.Join(names[:i+1], "/")
		if i < len(names)-1 || dir {
			t.call(step{"make directory", "/" + so}, unix.SYS_MKDIRAT, parent, name, 0o755)
		} else {
			t.call(step{"make file", "/" + so}, unix.SYS_MKNODAT, parent, name, unix.S_IFREG|0o644, 0)
		}
		t.allow(0, unix.EEXIST)
		if i < len(names)-1 {
			parent = t.open(step{"open directory", "/" + so}, root, so, unix.O_PATH|unix.O_DIRECTORY, 0)
		}
	}
}

// mountNew adds the rows that make a file system and attach it to a handle. It returns
// the mount.
func (t *table) mountNew(p *mountPlan, target result) result {
	name := p.kind + " on /" + p.to
	ctx := t.call(step{"open file system", name}, unix.SYS_FSOPEN, p.kind, unix.FSOPEN_CLOEXEC)
	if p.source != "" {
		t.call(step{"set source of", name}, unix.SYS_FSCONFIG, ctx, unix.FSCONFIG_SET_STRING, "source", p.source, 0)
	}
	for _, o := range p.data {
		key, value, ok := strings.Cut(o, "=")
		s := step{"set option " + o + " of", name}
		if ok {
			t.call(s, unix.SYS_FSCONFIG, ctx, unix.FSCONFIG_SET_STRING, key, value, 0)
		} else {
			t.call(s, unix.SYS_FSCONFIG, ctx, unix.FSCONFIG_SET_FLAG, key, 0, 0)
		}
	}
	t.call(step{"make file system", name}, unix.SYS_FSCONFIG, ctx, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
	mount := t.call(step{"mount", name}, unix.SYS_FSMOUNT, ctx, unix.FSMOUNT_CLOEXEC, uintptr(p.attr.Attr_set))
	t.attach(step{"attach", name}, mount, target)
	if p.attr.Propagation != unix.MS_PRIVATE {
		t.setattr(step{"set propagation of", name}, mount, &unix.MountAttr{Propagation: p.attr.Propagation}, 0)
	}
	return mount
}

// readOnly adds the rows that make a path of the root read-only, if it is there.
func (t *table) readOnly(root int, to string) {
	name := "/" + to
	target := t.open(step{"open read-only path", name}, root, to, unix.O_PATH, 0)
	t.allow(3, unix.ENOENT, unix.ENOTDIR)
	mount := t.call(step{"take read-only path", name}, unix.SYS_OPEN_TREE, target, "",
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	t.setattr(step{"make read-only", name}, mount, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, unix.AT_RECURSIVE)
	t.attach(step{"attach read-only path", name}, mount, target)
}

// mask adds the rows that hide a path of the root, if it is there: a directory below an
// empty read-only one, anything else below the null device.
func (t *table) mask(root int, to string, null result) {
	name := "/" + to
	target := t.open(step{"open masked path", name}, root, to, unix.O_PATH|unix.O_DIRECTORY, 0)
	const rowsOfDirectory, rowsOfFile = 4, 4
	t.allow(rowsOfDirectory, unix.ENOTDIR, unix.ENOENT)
	ctx := t.call(step{"open file system to mask", name}, unix.SYS_FSOPEN, "tmpfs", unix.FSOPEN_CLOEXEC)
	t.call(step{"make file system to mask", name}, unix.SYS_FSCONFIG, ctx, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
	mount := t.call(step{"mount to mask", name}, unix.SYS_FSMOUNT, ctx, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	t.attach(step{"mask", name}, mount, target)
	t.last().skipOK = rowsOfFile

	target = t.open(step{"open masked path", name}, root, to, unix.O_PATH, 0)
	t.allow(rowsOfFile-1, unix.ENOENT, unix.ENOTDIR)
	mount = t.call(step{"take the null device to mask", name}, unix.SYS_OPEN_TREE, null, "",
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	// Through a writable mount the owner of the container could change its permissions.
	t.setattr(step{"make read-only mask of", name}, mount, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}, 0)
	t.attach(step{"mask", name}, mount, target)
}
