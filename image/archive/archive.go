// Package archive reads and writes the forms in which images travel as files: the OCI
// image layout (a directory or a tar of it), the archive that `docker save` writes
// (also the kind that is an OCI layout at once), and the directory of skopeo's "dir:"
// transport.
//
// # Trust
//
// Nothing of an archive is believed before it is verified: digests and sizes while the
// bytes stream, DiffIDs after. Members are found by their names in the archive; no name
// and no link target of an archive ever becomes a path of the host. Nothing is visible
// before everything is durable: names are written last, all names of one archive
// together.
//
// # Reading
//
// An archive that can be read at any place (a plain tar in a file, a directory) is
// planned from its documents first, and then its layers are imported side by side. One
// that can be read only once, from front to back (standard input, a compressed file),
// is imported in the order of its members, which is arbitrary: small members are held
// in memory, layers are imported as they come by, and what the documents say is
// verified at the end. Nothing is spooled.
package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Limits on archives.
const (
	// MaxMembers is the number of members of one archive. The oldest form has four for
	// each layer.
	MaxMembers = 1 << 16
	// MaxBuffered is the number of bytes of small members held while an archive is
	// read from front to back.
	MaxBuffered = 64 << 20
	// MaxImages is the number of images that one docker archive may name.
	MaxImages = 1000
	// MaxNames is the number of names in one docker archive.
	MaxNames = 10_000
	// MaxLinks is how many links in an archive may lead from one to the next.
	MaxLinks = 8
)

// The members that tell the kinds of archives apart.
const (
	manifestFile     = "manifest.json" // of docker archives, and of skopeo's directories
	repositoriesFile = "repositories"  // of docker archives
	blobsDir         = "blobs"
)

// ErrNoArchive is wrapped, of class fs.ErrInvalid, by the error for something that is
// no image archive at all.
var ErrNoArchive = fmt.Errorf("not an image archive: %w", fs.ErrInvalid)

// blobName returns the member of an OCI layout that holds a blob.
func blobName(d digest.Digest) string {
	return blobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// memberName cleans a member's name. Names that lead out of the archive name nothing
// that a document could ask for; they are not ok.
func memberName(s string) (string, bool) {
	name := path.Clean(strings.TrimLeft(s, "/"))
	if name == "." || name == ".." || strings.HasPrefix(name, "../") || strings.IndexByte(name, 0) >= 0 {
		return "", false
	}
	return name, true
}

// invalid returns an error of class fs.ErrInvalid.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)
}

// isMissing reports whether a member is not there.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
