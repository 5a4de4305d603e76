package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/layerfs/layerfs/internal/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An ordinary user mounts, and owns files of many users, in a user and mount namespace of
// their own: see package userns. A command that needs it is executed anew inside, where
// it is root; one that only reads images never pays for that.

// keeperCommand is what this program is called with to keep the namespaces.
const keeperCommand = "keep-namespace"

// enter makes sure that the command may mount and change files of any owner. For an
// ordinary user it runs the whole command again inside the namespace, and returns an
// *exitError with the code of that, which the caller returns at once. So it must be
// called before anything is done or printed.
func (a *app) enter() error {
	if os.Geteuid() == 0 || a.args == nil {
		return nil
	}
	root, err := a.storeRoot()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := a.close(); err != nil {
		return err
	}
	a.disk, a.snaps, a.imgs = nil, nil, nil
	lock := usernsLock(root)
	if err := os.MkdirAll(filepath.Dir(lock), 0o700); err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	signals, stop := passSignals()
	defer stop()
	space := userns.Space{File: lock, Keeper: []string{a.args[0], keeperCommand, lock}, Logger: a.logger()}
	code, err := space.Run(userns.Command{Args: a.args, Dir: dir, Signals: signals,
		// Inside, the user is root, whose store is another one.
		Env: append(os.Environ(), "LAYERFS_ROOT="+root)})
	if err != nil {
		return err
	}
	return &exitError{code: code}
}

// usernsLock is the file whose lock keeps a store's user namespace there.
func usernsLock(root string) string { return filepath.Join(root, "locks", "userns") }

// passSignals returns the signals that this process has to pass on to the one inside. In
// the foreground of a terminal the keys that make signals reach both by themselves.
func passSignals() (<-chan os.Signal, func()) {
	keys := []os.Signal{syscall.SIGINT, syscall.SIGQUIT}
	passed, unheard := make(chan os.Signal, 16), make(chan os.Signal, 1)
	signal.Notify(passed, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	if foreground() {
		signal.Notify(unheard, keys...) // this process must outlive the one inside
	} else {
		signal.Notify(passed, keys...)
	}
	return passed, func() {
		signal.Stop(passed)
		signal.Stop(unheard)
	}
}

// foreground reports whether the process is in the foreground of its terminal.
func foreground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }() // nothing is written to it
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// rootless is what the process may do with owners of files: nil when it is the machine's
// root, or an ordinary user who has not entered the namespace.
func rootless() (*userns.Mapping, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	m, err := userns.Current()
	if err != nil || m.Initial() {
		return nil, err
	}
	return &m, nil
}

// Ids with a meaning: the usual one for files of an owner who does not exist, and -1,
// which no owner has.
const (
	nobody = 65534
	noID   = 1<<32 - 1
)

// owners returns who is to own a file where the ids of a namespace lack its owner: with a
// single user all belongs to that, else nobody does, or root where there is no nobody.
func owners(m *userns.Mapping) func(uid, gid uint32) (uint32, uint32) {
	if m == nil && os.Geteuid() == 0 {
		return nil
	}
	if m == nil { // who has not entered can own files, and give none away
		return func(uint32, uint32) (uint32, uint32) { return uint32(os.Geteuid()), uint32(os.Getegid()) }
	}
	one := func(ranges []userns.Range, id uint32) uint32 {
		switch {
		case userns.Has(ranges, id):
			return id
		case userns.Has(ranges, nobody):
			return nobody
		default:
			return 0
		}
	}
	return func(uid, gid uint32) (uint32, uint32) { return one(m.UIDs, uid), one(m.GIDs, gid) }
}

// fitNamespace changes what a container's specification says of groups that the user
// namespace does not have, and of the network where that is the machine's; m is nil
// where it has all.
func fitNamespace(spec *specs.Spec, m *userns.Mapping) {
	if m == nil {
		return
	}
	if u := &spec.Process.User; len(m.GIDs) == 1 && m.GIDs[0].Count == 1 && !slices.ContainsFunc(u.AdditionalGids, func(g uint32) bool { return g != u.GID }) {
		u.AdditionalGids = nil // who has no other group may not say so either
	}
	const pingers = "net.ipv4.ping_group_range"
	if _, ok := spec.Linux.Sysctl[pingers]; ok {
		last := uint32(0)
		for userns.Has(m.GIDs, last+1) { // they are lined up from 0
			r := m.GIDs[slices.IndexFunc(m.GIDs, func(r userns.Range) bool { return userns.Has([]userns.Range{r}, last+1) })]
			last = uint32(r.Inside + r.Count - 1)
		}
		spec.Linux.Sysctl[pingers] = fmt.Sprintf("0 %d", last)
	}
	shared := !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	for i := range spec.Mounts {
		if shared && spec.Mounts[i].Type == "sysfs" {
			// Whose network it shows belongs to another user namespace, which may not mount it.
			spec.Mounts[i] = specs.Mount{Destination: spec.Mounts[i].Destination, Type: "bind", Source: "/sys",
				Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		}
		spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(spec.Mounts[i].Options), func(o string) bool {
			name, id, _ := strings.Cut(o, "=")
			gid, err := strconv.ParseUint(id, 10, 32)
			return name == "gid" && err == nil && !userns.Has(m.GIDs, uint32(gid))
		})
	}
}

// leaveOpen lets the programs that this one starts have a file, and with it the lock on
// it. The server of an ordinary user's mount so marks the snapshot as in use for as long
// as the mount is there, which a look at the mounts does not show inside the namespace.
func leaveOpen(f *os.File) error {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("leave %s open: %w", f.Name(), err)
	}
	return nil
}
