package runtime

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/runtime/cgroup"
)

// mountCgroups adds the rows that show the container its groups: as the root of each
// hierarchy in a cgroup namespace of its own, else bound from the host. Where there are
// hierarchies of version 1, they are directories of a tmpfs.
func (p *plan) mountCgroups(mp *mountPlan, target result, group *cgroup.Group) error {
	trees, err := cgroup.Mounted()
	if err != nil {
		return err
	}
	own := p.flags&unix.CLONE_NEWCGROUP != 0
	if !own && group == nil {
		return fmt.Errorf("mount cgroups on /%s without a namespace or a group of its own: %w", mp.to, errors.ErrUnsupported)
	}
	t := p.table
	if len(trees) == 1 && trees[0].Unified {
		return p.mountCgroup(mp, trees[0], target, own, group)
	}
	top := *mp
	top.kind, top.source, top.data = "tmpfs", "tmpfs", []string{"mode=755"}
	top.attr.Attr_set &^= unix.MOUNT_ATTR_RDONLY
	mount := t.mountNew(&top, target)
	for _, tree := range trees {
		name := path.Base(tree.At)
		at := *mp
		at.to = mp.to + "/" + name
		t.call(step{"make directory", "/" + at.to}, unix.SYS_MKDIRAT, mount, name, 0o755)
		dir := t.open(step{"open directory", "/" + at.to}, mount, name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
		if err := p.mountCgroup(&at, tree, dir, own, group); err != nil {
			return err
		}
		for _, c := range tree.Controllers {
			if c != name && len(tree.Controllers) > 1 {
				t.call(step{"link", "/" + mp.to + "/" + c}, unix.SYS_SYMLINKAT, name, mount, c)
				t.allow(0, unix.EEXIST)
			}
		}
	}
	if mp.attr.Attr_set&unix.MOUNT_ATTR_RDONLY != 0 {
		t.setattr(step{"make read-only", "/" + mp.to}, mount, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, 0)
	}
	return nil
}

func (p *plan) mountCgroup(mp *mountPlan, tree cgroup.Mount, target result, own bool, group *cgroup.Group) error {
	at := *mp
	at.data = nil
	if own {
		at.kind, at.source = "cgroup2", "cgroup2"
		if !tree.Unified {
			at.kind, at.source, at.data = "cgroup", "cgroup", tree.Controllers
		}
		p.table.mountNew(&at, target)
		return nil
	}
	for _, dir := range group.Dirs() {
		if dir != tree.At && !strings.HasPrefix(dir, tree.At+"/") {
			continue
		}
		at.kind, at.source = "bind", dir
		f, _, err := at.clone(nil)
		if err != nil {
			return err
		}
		p.table.attach(step{"bind " + dir + " on", "/" + at.to}, p.hold(f), target)
	}
	return nil
}
