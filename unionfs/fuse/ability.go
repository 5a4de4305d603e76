package fuse

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/unionfs/fuse/internal/union"
)

// abilities are what this process may do.
type abilities struct {
	mount   bool // mount
	trusted bool // set trusted attributes
	chown   bool // give files to anybody
}

// privileges asks for the capabilities of this thread. In a user name space they count
// for less: there trusted attributes cannot be set by anybody, and owners only be such
// as the name space has.
func privileges() abilities {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return abilities{}
	}
	has := func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	admin := has(unix.CAP_SYS_ADMIN)
	return abilities{mount: admin, trusted: admin && initialUsers(), chown: has(unix.CAP_CHOWN) && has(unix.CAP_FOWNER)}
}

// initialUsers reports whether this process is in the initial user name space, whose
// map is the identity on all 32-bit numbers (user_namespaces(7)).
func initialUsers() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || strings.Join(strings.Fields(string(text)), " ") == "0 0 4294967295"
}

// owners returns the ids that a server started by this process can give files to: nil
// for any, all of the user name space, or only its own.
func owners(chown bool) (*union.Owners, error) {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	o := &union.Owners{OtherUID: uid, OtherGID: gid}
	if !chown {
		o.UIDs, o.GIDs = []union.Range{{First: uid, Count: 1}}, []union.Range{{First: gid, Count: 1}}
		return o, nil
	}
	if initialUsers() {
		return nil, nil
	}
	var err error
	if o.UIDs, err = idMap("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	o.GIDs, err = idMap("/proc/self/gid_map")
	return o, err
}

// idMap reads which ids a user name space has.
func idMap(path string) (ranges []union.Range, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read ids of user name space: %w", err)
	}
	for line := range bytes.Lines(text) {
		var r union.Range
		var outside uint32
		if _, err := fmt.Sscan(string(line), &r.First, &outside, &r.Count); err != nil {
			return nil, fmt.Errorf("read ids of user name space from %s: %w", path, err)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// userAllowOther reports whether fusermount3 lets ordinary users mount for all users.
func userAllowOther() bool {
	text, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}
