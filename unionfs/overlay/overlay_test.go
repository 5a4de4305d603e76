package overlay_test

import (
	"log"
	"os"
	"testing"

	"github.com/layerfs/layerfs/internal/userns"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse/treefs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// TestMain is also what serves trees, and what keeps the user namespace of tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == treefs.Command {
		if err := treefs.Serve(); err != nil {
			log.Fatal(err)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == keeper {
		if err := userns.Keep(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	code, err := unionfstest.Main(m)
	if err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

// lacks is what overlayfs of Linux lacks by its manual ("Non-standard behavior" in
// Documentation/filesystems/overlayfs.rst) and by measurement.
func lacks() map[unionfstest.Power]string {
	return map[unionfstest.Power]string{
		unionfstest.KeptHardLinks:        "the index is off, so that a commit finds everything in the upper",
		unionfstest.FreshMappings:        "a mapping made before copy-up stays with the lower file (documented)",
		unionfstest.UnlinkedLower:        "an unlinked file that is open on a lower layer cannot be copied up",
		unionfstest.NeedlessWhiteouts:    "readdir of a directory of one layer alone is that layer's readdir; nobody writes such whiteouts",
		unionfstest.XattrWhiteoutRemoval: "rmdir takes such a whiteout for an entry (Linux 6.18); layers use devices 0/0",
	}
}

func TestConformanceOfDirectories(t *testing.T) {
	unionfstest.Run(t, unionfstest.Harness{Driver: overlay.New(overlay.Options{}), Namespace: unionfs.Trusted, Lacks: lacks()})
}

func TestConformanceOfTrees(t *testing.T) {
	unionfstest.Run(t, unionfstest.Harness{Driver: overlay.New(overlay.Options{}), Namespace: unionfs.Trusted, Lacks: treesLack(), Layer: asTree})
}

// treesLack is lacks for trees: EROFS, being read-only, knows neither setting of ACLs
// nor inode flags, and overlayfs asks the lower file before it copies it up.
func treesLack() map[unionfstest.Power]string {
	all := lacks()
	all[unionfstest.LowerACLs] = "overlayfs wants the lower file system to know setting of ACLs (EOPNOTSUPP until the file is copied up)"
	all[unionfstest.LowerInodeFlags] = "overlayfs reads the flags from the lower file system, which has none (ENOTTY until the file is copied up)"
	return all
}
