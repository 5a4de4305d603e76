// Package tarstream turns layer tars into recipes and objects, and back.
//
// [Import] reads a tar once, as a pipeline: one goroutine reads and parses, one
// computes the digest of the tar, and a few hash file contents and store them. They
// share the buffers that the tar was read into: contents are hashed and stored from
// where they lie. Nothing of a tar ever becomes a path on the host.
//
// The parser keeps every byte, so that the recipe gives back the identical tar. It
// understands V7, USTAR, PAX, GNU and star archives, with GNU's sparse formats 0.0,
// 0.1, 1.0 and the old one. Where implementations differ it does as follows.
//
//   - A member's data is as long as its header or PAX record says for regular files,
//     and nothing for links, directories, devices and fifos, whatever their size field
//     holds, as in Go and libarchive.
//   - A global PAX header applies to the members after it, as POSIX and GNU tar have
//     it; but one that sets a path, a size or a sparse map is refused.
//   - The first block of zeros ends the archive. What follows is kept and not
//     interpreted. An archive may also just end after a member.
//   - A regular file with a slash at the end of its name is a directory.
//   - ACLs in star's text form (SCHILY.acl.*) are kept in the recipe and not in the
//     tree, as in Docker and containerd; those in extended attributes are in the tree.
//   - A fraction of a second before the epoch counts away from zero, as in POSIX, GNU
//     tar and Go; libarchive has it the other way.
//   - Metadata of AUFS (/.wh..wh.aufs, /.wh..wh.plnk, /.wh..wh.orph) is kept in the
//     recipe and not in the tree; hard links to files in /.wh..wh.plnk work.
//   - Member types that no tool could extract are refused, except volume labels,
//     which are ignored.
//
// [Pack] makes a canonical layer tar of a layer tree, without writing it anywhere, and
// its recipe. [WriteTree] writes the canonical tar of a merged tree.
package tarstream
