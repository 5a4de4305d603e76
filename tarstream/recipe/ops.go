package recipe

// The operations of the stream section: the low two bits of an operation's uvarint.
const (
	opLiteral  = 0
	opZeros    = 1
	opContents = 2
)

// The flag byte of a node in the index section. The kinds 1 to 7 are tree.Type.
const (
	kindMask     = 0x0f
	kindHardLink = 0
	kindWhiteout = 8
	kindLinkOut  = 9

	flagOpaque   = 0x10 // of a directory
	flagImplicit = 0x20 // of a directory
	flagInline   = 0x10 // of a file
	flagObject   = 0x20 // of a file
	flagNsec     = 0x40
	flagSameTime = 0x80
)
