package union

import (
	"fmt"
	"io/fs"
	"math"

	"github.com/layerfs/layerfs/unionfs"
)

// Config is what a union is made of and how it behaves. It travels as JSON to the
// process that serves it.
type Config struct {
	Layers   unionfs.Layers
	ReadOnly bool
	Volatile bool
	// Namespace is that of the upper and of directories among the lowers. Trees say
	// themselves which one they use.
	Namespace unionfs.Namespace
	// Owners, when set, are the ids that files may have.
	Owners *Owners
}

// Owners are the ids that the server may give files to. What belongs to another id in
// the layers is shown as belonging to the other one, and a change to an id that is not
// among them fails with EPERM.
type Owners struct {
	UIDs, GIDs         []Range
	OtherUID, OtherGID uint32
}

// Range is Count ids from First.
type Range struct {
	First, Count uint32
}

func has(ranges []Range, id uint32) bool {
	for _, r := range ranges {
		if id-r.First < r.Count {
			return true
		}
	}
	return false
}

// shown returns the owner under which a file is shown. nil shows all as they are.
func (o *Owners) shown(uid, gid uint32) (uint32, uint32) {
	if o == nil {
		return uid, gid
	}
	if !has(o.UIDs, uid) {
		uid = o.OtherUID
	}
	if !has(o.GIDs, gid) {
		gid = o.OtherGID
	}
	return uid, gid
}

// maxLower is the number of lower layers that inode numbers have room for.
const maxLower = 1<<(63-nidBits) - 1

func (c *Config) validate() error {
	if err := c.Layers.Validate(); err != nil {
		return err
	}
	if c.Namespace != unionfs.Trusted && c.Namespace != unionfs.User {
		return fmt.Errorf("attribute namespace %q: %w", c.Namespace, fs.ErrInvalid)
	}
	if len(c.Layers.Lower) > maxLower || len(c.Layers.Lower) > math.MaxInt32 {
		return fmt.Errorf("%d lower layers: %w", len(c.Layers.Lower), fs.ErrInvalid)
	}
	return nil
}
