package unionfs

import "strings"

// Namespace is the prefix of the extended attributes in which a union keeps what an
// ordinary file system cannot say. All drivers write and read the format of Linux
// overlayfs (Documentation/filesystems/overlayfs.rst), which is this:
//
// Whiteout: a name that is removed from the layers below is a character device
// with number 0/0, usually many names linked to one inode. Where devices cannot be
// made, it is an empty regular file with the attribute [Whiteout], in a directory
// whose [Opaque] attribute is [OpaqueWhiteouts]; readers know both forms. A whiteout
// is needless where no layer below has the directory that it is in, or where that
// directory is opaque, and must not be written there: overlayfs does not merge such
// a directory, so its readdir shows the whiteout as an entry that nothing can open.
//
// Opaque directory: nothing of the same directory in layers below shows through.
// The directory has the attribute [Opaque] with value [OpaqueYes].
//
// Redirect: the attribute [Redirect] on a directory says under which name to go on
// looking in the layers below: a name without a slash is a sibling in the same parent,
// one with a leading slash is a path from the root of the layers. A directory with a
// redirect merges with the directory found there. On a regular file the attribute
// goes with metacopy.
//
// Metacopy: a regular file with the attribute [Metacopy] has its own metadata, but
// its content is that of the next file below of the same (redirected) name. The
// value is empty, or a header {version 0, length, flags, digest algorithm} of four
// bytes followed by an fs-verity digest. The file's size is right and its data is a
// hole. A redirect with a leading slash, in the lowest layer that has the file, is
// looked up in the data directories.
//
// Origin: the attribute [Origin] holds a file handle of the lower file that was
// copied up, which keeps inode numbers constant over mounts. It is a hint that means
// nothing once the layers have moved, and readers of an upper ignore it, as they do
// [Impure] (a directory holds files with an origin), [Nlink], [UUID] and [Upper].
//
// Escaping: an attribute of that prefix which belongs to the files of the union
// itself, as a nested union makes them, is stored with the prefix doubled:
// "trusted.overlay.opaque" seen through the mount is stored as
// "trusted.overlay.overlay.opaque". See [Namespace.Escape].
//
// Root uses the namespace [Trusted]; a user namespace, which cannot set trusted
// attributes, uses [User].
type Namespace string

// The two namespaces.
const (
	Trusted Namespace = "trusted.overlay."
	User    Namespace = "user.overlay."
)

// Attributes of the upper format, to be appended to a [Namespace].
const (
	Opaque   = "opaque"
	Whiteout = "whiteout"
	Redirect = "redirect"
	Metacopy = "metacopy"
	Origin   = "origin"
	Impure   = "impure"
	Nlink    = "nlink"
	UUID     = "uuid"
	Upper    = "upper"    // in the index directory only
	Protattr = "protattr" // inode flags, such as immutable ("i") and append-only ("a"), that the union enforces
)

// Values of [Opaque].
const (
	OpaqueYes       = "y" // nothing below shows through
	OpaqueWhiteouts = "x" // the directory may hold whiteouts in the form of attributes
)

// escape is what follows the prefix of an attribute that is not the union's own.
const escape = "overlay."

// Attr returns the full name of one of the union's own attributes.
func (n Namespace) Attr(name string) string { return string(n) + name }

// Own reports whether the stored attribute is the union's own, and its name without
// the prefix. Such an attribute is never visible through the mount.
func (n Namespace) Own(stored string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(stored, string(n))
	if !ok || strings.HasPrefix(rest, escape) {
		return "", false
	}
	return rest, true
}

// Escape returns the name under which an attribute of a file of the union is stored.
func (n Namespace) Escape(name string) string {
	if rest, ok := strings.CutPrefix(name, string(n)); ok {
		return string(n) + escape + rest
	}
	return name
}

// Unescape is the inverse of Escape: the name that shows through the mount. The
// union's own attributes have none.
func (n Namespace) Unescape(stored string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(stored, string(n))
	if !ok {
		return stored, true
	}
	if rest, ok = strings.CutPrefix(rest, escape); !ok {
		return "", false
	}
	return string(n) + rest, true
}
