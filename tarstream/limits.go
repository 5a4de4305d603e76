package tarstream

import (
	"cmp"

	"github.com/layerfs/layerfs/tarstream/recipe"
)

// Default limits of an import. Limits on paths and extended attributes are those of
// package tree, limits on the recipe those of package recipe.
const (
	MaxEntries   = recipe.MaxEntries // members of a tar
	MaxHeader    = 1 << 20           // bytes in one extension header, as in Go's archive/tar
	MaxMetadata  = 1 << 30           // bytes in names, link targets and extended attributes of a tar
	MaxFile      = 1 << 42           // bytes in one file, holes included
	MaxHoles     = 1 << 34           // bytes in the holes of a tar's sparse files, which have to be hashed
	MaxExtents   = 1 << 20           // extents of one sparse file
	MaxXattrs    = recipe.MaxXattrs  // extended attributes of one member
	MaxExtension = 1 << 10           // extension headers before one member
)

// Limits bounds what an import accepts. A zero field stands for the default.
type Limits struct {
	Entries  int   // members, default MaxEntries and not more
	Nodes    int   // names in the layer, implied directories included, default tree.MaxNodes
	Metadata int64 // bytes in names, link targets and extended attributes, default MaxMetadata
	File     int64 // bytes in one file, default MaxFile
	Holes    int64 // bytes in holes of all sparse files together, default MaxHoles
}

func (l Limits) withDefaults() Limits {
	l.Entries = min(cmp.Or(l.Entries, MaxEntries), MaxEntries)
	l.Metadata = cmp.Or(l.Metadata, MaxMetadata)
	l.File = min(cmp.Or(l.File, MaxFile), MaxFile)
	l.Holes = cmp.Or(l.Holes, MaxHoles)
	return l
}
