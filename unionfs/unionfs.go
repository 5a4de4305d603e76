// Package unionfs is the contract of a union mount: read-only layers below, the
// contents of their files beside them, and, when the mount is writable, a directory
// on top that takes all changes.
//
// A [Driver] turns [Layers] into a [Mount]. Every driver behaves as Linux overlayfs
// does, keeps changes in the same on-disk format (see [Namespace]) and proves both
// by the suite in unionfs/unionfstest; so an upper directory that one driver wrote
// can be mounted by another, and a commit reads it without knowing who wrote it.
//
// The package holds values and interfaces only and does no I/O.
package unionfs

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
)

// MaxLayers is the largest number of lowers and data directories together that one
// mount may have. It is OVL_MAX_STACK of the Linux kernel, and all drivers keep to it.
const MaxLayers = 500

// Lower is one read-only layer. Exactly one of its fields is set.
type Lower struct {
	// Tree is the path of an EROFS image file. The image holds names, metadata and
	// small contents; a larger file is an inode without data whose redirect names
	// its content in one of Layers.Data.
	Tree string
	// Dir is a directory in the upper format, such as the upper directory of a
	// sealed snapshot. It must not change while it is mounted.
	Dir string
}

// String returns the path, for messages.
func (l Lower) String() string {
	if l.Tree != "" {
		return l.Tree
	}
	return l.Dir
}

// Layers is what a union is made of.
type Layers struct {
	// Lower lists the read-only layers, the topmost first. It may be empty when
	// Upper is set.
	Lower []Lower
	// Data lists directories that hold file contents by redirect path, searched in
	// order. Nothing in them is visible by name.
	Data []string
	// Upper takes the changes and Work is its scratch directory on the same file
	// system. Both are set, or neither; without them the union is read-only.
	// Upper is itself the root directory of the union: whoever makes it gives it the
	// mode, owner, times and attributes of the topmost lower's root.
	Upper, Work string
}

// Validate reports what is wrong with l by itself, without looking at the disk. The
// error wraps fs.ErrInvalid.
func (l Layers) Validate() error {
	for i, lower := range l.Lower {
		if (lower.Tree == "") == (lower.Dir == "") {
			return fmt.Errorf("lower layer %d needs either a tree or a directory: %w", i, fs.ErrInvalid)
		}
	}
	for i, data := range l.Data {
		if data == "" {
			return fmt.Errorf("data directory %d has no path: %w", i, fs.ErrInvalid)
		}
	}
	if (l.Upper == "") != (l.Work == "") {
		return fmt.Errorf("an upper directory and a work directory go together, have upper %q and work %q: %w", l.Upper, l.Work, fs.ErrInvalid)
	}
	if len(l.Lower) == 0 && l.Upper == "" {
		return fmt.Errorf("a union needs at least one lower layer or an upper directory: %w", fs.ErrInvalid)
	}
	if n := len(l.Lower) + len(l.Data); n > MaxLayers {
		return fmt.Errorf("%d lower layers and data directories, limit %d; merge some layers into one tree: %w", n, MaxLayers, fs.ErrInvalid)
	}
	return nil
}

// Options say how to mount.
type Options struct {
	// ReadOnly refuses all writes. An Upper is then shown as the topmost layer and
	// neither it nor Work is written to.
	ReadOnly bool
	// Volatile gives up durability for speed: nothing is ever flushed on behalf of
	// the union. After a crash the upper directory must be thrown away, and a driver
	// refuses to mount an upper that was mounted volatile before.
	Volatile bool
	// Source is what /proc/self/mountinfo shows as the source of the mount, at most
	// 255 bytes; "layerfs" when empty.
	Source string
	// Logger takes debug messages; nil discards them.
	Logger *slog.Logger
}

// Mount is a union that is mounted but, until Attach, not visible at any path. A
// mount that is closed without having been attached is gone with all it held.
type Mount interface {
	// Attach makes the union visible at the directory target. It can be called once;
	// a second call fails with an error that wraps fs.ErrInvalid.
	Attach(ctx context.Context, target string) error
	// Close releases what the process holds of the union. An attached mount stays,
	// but is busy and cannot be unmounted before Close.
	Close() error
}

// Driver mounts unions in one particular way. A Driver has no state that outlives
// a call but its options, and is safe for concurrent use.
type Driver interface {
	// Name is the driver's name on the command line: "overlay", "fuse", "aufs".
	Name() string
	// Probe reports whether the driver can serve uppers and data that lie in
	// directory dir. It finds out by trying, in a few milliseconds, and leaves
	// nothing behind in dir. The error names the first missing feature and wraps
	// errors.ErrUnsupported or fs.ErrPermission.
	Probe(ctx context.Context, dir string) error
	// Open mounts the layers, detached. The caller closes the result.
	Open(ctx context.Context, layers Layers, opts Options) (Mount, error)
}

// Unmounter is a Driver that unmounts what it has mounted. The default for drivers
// without it is umount(2).
type Unmounter interface {
	// Unmount unmounts target. A target in use fails with an error that wraps
	// syscall.EBUSY, after a short while of trying again, unless force is set: then
	// the mount leaves the name space at once and ends when its last user does.
	// An error that wraps fs.ErrInvalid says that target is not a mount point.
	Unmount(ctx context.Context, target string, force bool) error
}

// Feature is one thing that a driver wants from the system, and whether it is there.
type Feature struct {
	Name string // one of the Feature constants, or the driver's own
	OK   bool
	Why  string // what follows from it, or why it is missing, one sentence
}

// Names of features that callers of more than one driver ask for.
const (
	// FeatureDriver is the driver as a whole: the answer of Probe.
	FeatureDriver = "driver"
	// FeatureStackedTrees is the power to have several trees with redirects to data
	// in one union. Without it a stack must be merged into one tree, which has to
	// be the last lower.
	FeatureStackedTrees = "stacked trees"
	// FeatureMetadataCopyUp is the power to change the metadata of a lower file
	// without copying its content into the upper.
	FeatureMetadataCopyUp = "metadata-only copy-up"
	// FeatureDirRename is the power to rename directories of lower layers; without
	// it such a rename fails with EXDEV.
	FeatureDirRename = "rename of lower directories"
)

// Featurer is a Driver that can tell in detail what it found.
type Featurer interface {
	// Features tries out, for uppers and data in directory dir, all that the driver
	// can make use of. The first element is FeatureDriver.
	Features(ctx context.Context, dir string) []Feature
}

// HasFeature reports whether a list of features has name, and has it OK.
func HasFeature(features []Feature, name string) bool {
	for _, f := range features {
		if f.Name == name {
			return f.OK
		}
	}
	return false
}
