// Package userns lets an ordinary user work as root of a user and mount namespace of
// their own, in which file systems can be mounted and files can belong to many users.
//
// # The namespaces and their keeper
//
// One pair of namespaces belongs to each [Space], that is to each lock file, which lies
// in the store that the namespaces are for. They are kept by a process without any other
// work, the keeper, so that what one command mounts the next one finds. The first
// command that needs the namespaces starts it; it ends by itself soon after nobody uses
// them: when nothing is mounted that was not there at its start, and no process that
// entered, nor any descendant of one, is left.
//
// Two locks on the file are all that is shared, and they go with the processes that hold
// them, so there is nothing to clean up after a crash:
//
//   - The keeper holds a POSIX lock (fcntl). Whoever asks who is in the way of such a
//     lock is told the keeper's process id, by the kernel.
//   - Who enters holds a flock, shared, from before it looks for the keeper. The open
//     file is inherited by all that it starts. The keeper ends only while it holds that
//     lock alone, so nobody can be about to enter.
//
// # Entering
//
// A multithreaded process, as every Go program is, may not enter a user namespace. So
// [Space.Run] forks, and the child, in which only one thread is left, enters and executes
// the program anew.
//
// # Identities
//
// Inside, user and group 0 are the user's own. The rest comes from the ranges that
// /etc/subuid and /etc/subgid give to the user, in their order from 1 on, by the
// programs newuidmap and newgidmap, as in podman. Where there is none of this, 0 is the
// only user and the only group, and setgroups is refused.
package userns

import (
	"fmt"
	"os/exec"
	"slices"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// Range is a run of ids inside the namespace and what they are outside.
type Range struct {
	Inside, Outside int64
	Count           int64
}

// Mapping is the ids that exist in a user namespace.
type Mapping struct {
	UIDs, GIDs []Range
}

// allIDs is the number of ids in a mapping that has all of them; 1<<32 - 1 is no id.
const allIDs = 1<<32 - 1

// Initial reports whether the mapping is that of the initial user namespace, or of one
// that is its equal: every id is itself.
func (m Mapping) Initial() bool {
	all := []Range{{Count: allIDs}}
	return slices.Equal(m.UIDs, all) && slices.Equal(m.GIDs, all)
}

// Single reports whether there is but one user.
func (m Mapping) Single() bool { return len(m.UIDs) == 1 && m.UIDs[0].Count == 1 }

// Has reports whether an id of the inside exists in one of the two lists of a mapping.
func Has(ranges []Range, id uint32) bool {
	for _, r := range ranges {
		if d := int64(id) - r.Inside; d >= 0 && d < r.Count {
			return true
		}
	}
	return false
}

// Current returns the mapping of the namespace that the process is in.
func Current() (Mapping, error) {
	uids, err := user.ParseIDMapFile("/proc/self/uid_map")
	if err != nil {
		return Mapping{}, fmt.Errorf("read the mapping of users: %w", err)
	}
	gids, err := user.ParseIDMapFile("/proc/self/gid_map")
	if err != nil {
		return Mapping{}, fmt.Errorf("read the mapping of groups: %w", err)
	}
	return Mapping{UIDs: ranges(uids), GIDs: ranges(gids)}, nil
}

func ranges(ids []user.IDMap) []Range {
	out := make([]Range, len(ids))
	for i, id := range ids {
		out[i] = Range{Inside: id.ID, Outside: id.ParentID, Count: id.Count}
	}
	return out
}

// Allowed returns the mapping that the calling user may have: itself as 0, and, if that
// can be set up here, its subordinate ids. why says what keeps the latter from being.
func Allowed() (m Mapping, why error) {
	single := Mapping{
		UIDs: []Range{{Outside: int64(unix.Geteuid()), Count: 1}},
		GIDs: []Range{{Outside: int64(unix.Getegid()), Count: 1}},
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return single, fmt.Errorf("find the program that maps subordinate ids: %w", err)
		}
	}
	uids, err := user.CurrentUserSubUIDs()
	if err != nil {
		return single, fmt.Errorf("find subordinate users: %w", err)
	}
	gids, err := user.CurrentUserSubGIDs()
	if err != nil {
		return single, fmt.Errorf("find subordinate groups: %w", err)
	}
	m = Mapping{UIDs: append(single.UIDs[:1:1], subordinate(uids)...), GIDs: append(single.GIDs[:1:1], subordinate(gids)...)}
	if len(m.UIDs) == 1 || len(m.GIDs) == 1 {
		return single, fmt.Errorf("user %d has no range in /etc/subuid or /etc/subgid: %w", unix.Geteuid(), unix.ENOENT)
	}
	return m, nil
}

// maxRanges is how many ranges a mapping may have (UID_GID_MAP_MAX_EXTENTS of Linux).
const maxRanges = 340

// subordinate lines ranges up from id 1 on.
func subordinate(ids []user.SubID) []Range {
	var out []Range
	next := int64(1)
	for _, id := range ids {
		count := min(id.Count, allIDs-next)
		if count <= 0 || id.SubID < 0 || len(out) == maxRanges-1 {
			continue
		}
		out = append(out, Range{Inside: next, Outside: id.SubID, Count: count})
		next += count
	}
	return out
}
