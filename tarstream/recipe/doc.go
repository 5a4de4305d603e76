// Package recipe is the record of one layer: every byte of its tar that is not the
// contents of a file, the names of the objects that hold the rest, small contents in
// place, and an index, which is the layer as a [tree.Node] tree. From a recipe and the
// objects comes the identical tar; from the recipe alone come listings, diffs and
// merges.
//
// # The container
//
// Integers of fixed width are little-endian. A uvarint is the base-128 coding of
// encoding/binary; a zigzag is a uvarint that holds a signed number n as
// (n<<1)^(n>>63). A string is a uvarint length and that many raw bytes. CRC is CRC-32C
// (Castagnoli). FORMAT.md beside this file has the same with examples.
//
//	header | frames of section 1 | … | frames of section 5 | directory | footer
//
// Header, 80 bytes:
//
//	 0  8  magic "layerfsR"
//	 8  4  version, 1
//	12  4  incompatible features: a reader that does not know a bit refuses the recipe
//	16  4  compatible features: unknown bits are ignored
//	20 32  DiffID: SHA-256 of the tar
//	52  8  bytes in the tar
//	60  8  members in the tar
//	68  8  reserved, zero
//	76  4  CRC of bytes 0 to 75
//
// Directory: for each section in the order 1 to 5: its number (1 byte), uvarint count
// of frames, and for each frame: uvarint stored bytes, uvarint raw bytes, 4 bytes CRC
// of the stored bytes. Sections with a number of 128 or more may follow, ascending;
// a reader that does not know them skips them.
//
// Footer, 32 bytes:
//
//	 0  8  offset of the directory
//	 8  4  bytes in the directory
//	12  4  CRC of the directory
//	16  8  bytes in the whole recipe
//	24  4  CRC of footer bytes 0 to 23
//	28  4  magic "lRfe"
//
// A frame holds 1 to [MaxFrame] raw bytes. One whose stored size equals its raw size
// is stored as it is; otherwise it is one zstd frame that needs no other. The frames
// lie one after the other, without gaps, from the end of the header to the directory.
//
// # Sections
//
// 1, objects: never compressed; 40 bytes for each object: its 32-byte id and its size
// in 8 bytes, more than zero. Objects are distinct and in the order in which the tar
// first has them. A frame holds whole entries.
//
// 2, stream: the tar as operations, each a uvarint n<<2 | kind. A frame holds whole
// operations.
//
//	0 literal   n bytes follow
//	1 zeros     n zero bytes
//	2 contents  the next n contents of section 3, one after the other
//
// 3, contents: what the contents in the stream are, in order, as one run of bytes that
// ignores frame bounds. Each is a uvarint v; v&1 says that extents follow, and v>>1 is
// 0 for the next inline contents, 1 for the next object that no earlier contents
// named, k+2 for object k. Extents, for sparse files: a uvarint count, then for each a
// uvarint gap since the end of the one before and a uvarint length, not zero: only
// these parts of the contents are in the tar.
//
// 4, inline: small contents in the order of the tar, each a string, not empty. A frame
// holds whole strings.
//
// 5, index: the layer, as one run of bytes that ignores frame bounds:
//
//	uvarint nodes, uvarint inodes, uvarint xattr sets, uvarint attribute sets
//	each xattr set: uvarint count, then name and value as strings, sorted by name
//	each attribute set: uvarint mode, uid, gid, xattr set + 1 (0 is none)
//	the nodes in pre-order, the root first with an empty name
//
// A node is a flag byte, the name as a string, and by the kind in the flag's low four
// bits:
//
//	0 hard link    uvarint: how many inodes before the latest one it is
//	1 file         attributes; zigzag: see below
//	2 directory    attributes; uvarint count of children, which follow
//	3 symlink      attributes; target as a string
//	4, 5 device    attributes; uvarint major, uvarint minor
//	6 fifo         attributes
//	7 socket       attributes
//	8 whiteout     nothing
//	9 link out     the path of a hard link's target that the layer does not define
//
// Attributes are a uvarint number of the attribute set and the time: nothing with flag
// 0x80, which says that it equals the time of the inode before; else zigzag of the
// seconds less those of the inode before, and with flag 0x40 a uvarint of nanoseconds.
// Flag 0x10 says of a directory that it is opaque, 0x20 that it is implicit. Of a file
// 0x10 says that it is inline and 0x20 that it is an object: the zigzag then is the
// number of its contents in section 4, or of its object in section 1, less the number
// after the one used before. A file with neither flag is empty and has no zigzag.
package recipe
