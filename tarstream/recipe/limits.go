package recipe

// Limits of a recipe. A recipe that exceeds one is refused when it is read and is
// never written.
const (
	MaxFrame     = 1 << 20 // raw bytes in one frame; Builder makes them smaller
	MaxInline    = 1 << 16 // bytes of contents that may be inline
	MaxDirectory = 1 << 24 // bytes in the directory
	MaxStored    = 1 << 30 // bytes in the whole recipe
	MaxTar       = 1 << 44 // bytes in the tar
	MaxEntries   = 1 << 22 // members in the tar
	MaxNodes     = 1 << 24 // nodes in the index
	MaxExtents   = 1 << 22 // extents of sparse files, all together
	MaxIndex     = 1 << 30 // raw bytes of the index section
	MaxContents  = 1 << 28 // raw bytes of the contents section
	MaxInlineSum = 1 << 29 // raw bytes of the inline section
	MaxXattrs    = 1 << 10 // extended attributes of one inode
)
