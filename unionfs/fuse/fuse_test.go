package fuse_test

import (
	"log"
	"os"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

// TestMain is also the server process of these tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fuse.ServerArgs()[0] {
		if err := fuse.Serve(os.Stderr); err != nil {
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

// namespace is the one that the driver uses for who runs the tests.
func namespace() unionfs.Namespace {
	if os.Geteuid() == 0 {
		return unionfs.Trusted
	}
	return unionfs.User
}

func asTree(t testing.TB, dir string) (unionfs.Lower, []string) {
	t.Helper()
	return unionfstest.AsTree(t, dir, namespace())
}

// lacks is what the driver lacks, and what it lacks for an ordinary user.
func lacks() map[unionfstest.Power]string {
	all := map[unionfstest.Power]string{
		unionfstest.ShiftFallocate: "the kernel's FUSE passes on neither (fuse_file_fallocate)",
	}
	if os.Geteuid() == 0 {
		return all
	}
	all[unionfstest.DirRename] = "overlayfs follows no redirects where attributes are user.overlay.*, so the upper must not have any"
	all[unionfstest.MetadataCopyUp] = "overlayfs knows no metacopy where attributes are user.overlay.*, so the upper must not have it"
	all[unionfstest.StableInodes] = "a symbolic link cannot have user attributes, and so not the one that keeps its number over a remount"
	all[unionfstest.Devices] = "an ordinary user may not make devices"
	all[unionfstest.TrustedXattrs] = "an ordinary user may not set trusted attributes"
	all[unionfstest.Users] = "an ordinary user cannot act as another"
	all[unionfstest.InodeFlags] = "an ordinary user may not set the flags that the case sets"
	all[unionfstest.SmallUpper] = "an ordinary user may not mount file systems"
	return all
}

// dirsLack is lacks for layers that are directories: where the other names of a file
// are is told by trees only.
func dirsLack() map[unionfstest.Power]string {
	all := lacks()
	all[unionfstest.KeptHardLinks] = "a directory does not tell the other names of a file"
	return all
}

func TestConformanceOfDirectories(t *testing.T) {
	unionfstest.Run(t, unionfstest.Harness{Driver: fuse.New(fuse.Options{}), Namespace: namespace(), Lacks: dirsLack()})
}

func TestConformanceOfTrees(t *testing.T) {
	unionfstest.Run(t, unionfstest.Harness{Driver: fuse.New(fuse.Options{}), Namespace: namespace(), Lacks: lacks(), Layer: asTree})
}
