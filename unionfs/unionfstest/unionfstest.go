// Package unionfstest is the conformance suite of union mounts, to be run by every
// driver of package unionfs.
//
// Most cases apply operations to a mounted union and to a plain directory of the same
// content, the control, and demand that each operation ends alike and that both trees
// are equal afterwards: type, mode, owner, size, time, link count, attributes, content,
// target and device number. All such cases check four more things:
//
//   - after a remount the union still equals the control, and inode numbers stay;
//   - no lower layer has changed;
//   - readdir told the types and inode numbers that stat tells;
//   - the upper, read by a small reader of the documented format that knows no driver,
//     gives the control's tree together with the layers (see [unionfs.Namespace]).
//
// Other cases look at what a comparison cannot see: open files, mappings, locks,
// events, a full disk, concurrency.
//
// What a driver deliberately does not do it declares in [Harness.Lacks] with the
// reason. Cases that need it are skipped with that reason, or check that the refusal
// is clean.
package unionfstest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/unionfs"
)

// Power is something that a driver, or the system under it, may lack.
type Power string

// The powers. What kernel overlayfs lacks of them is listed in its manual under
// "Non-standard behavior".
const (
	DirRename            Power = "rename of directories that a lower layer has"
	MetadataCopyUp       Power = "change of metadata without copying the content"
	KeptHardLinks        Power = "hard links of a lower file that stay together when one is written"
	FreshMappings        Power = "a shared mapping made before copy-up that sees later writes"
	UnlinkedLower        Power = "a lower file opened read-only and removed that can still be changed, with link count 0"
	StableInodes         Power = "inode numbers that stay over copy-up and remount"
	Tmpfile              Power = "O_TMPFILE"
	ShiftFallocate       Power = "FALLOC_FL_COLLAPSE_RANGE and FALLOC_FL_INSERT_RANGE"
	Devices              Power = "making device nodes"
	TrustedXattrs        Power = "trusted extended attributes"
	Users                Power = "acting as several users"
	LowerACLs            Power = "setting an ACL on a file that has not been copied up"
	LowerInodeFlags      Power = "setting inode flags of a file that has not been copied up"
	InodeFlags           Power = "inode flags, as chattr sets them"
	SmallUpper           Power = "mounting a small file system to run out of space on"
	NeedlessWhiteouts    Power = "not showing a whiteout in a directory that no other layer has, or that is opaque"
	XattrWhiteoutRemoval Power = "removing a directory that has whiteouts as attributes in a lower layer"
	SparseCopyUp         Power = "copy-up that keeps holes"
	LinkedNumbers        Power = "one inode number for all names of a lower file that was linked"
	LowerCopyRange       Power = "copy_file_range of a file that has not been copied up"
)

func powers() []Power {
	return []Power{
		DirRename, MetadataCopyUp, KeptHardLinks, FreshMappings, UnlinkedLower, StableInodes, Tmpfile, ShiftFallocate,
		Devices, TrustedXattrs, Users, InodeFlags, SmallUpper, SparseCopyUp,
		LowerACLs, LowerInodeFlags, NeedlessWhiteouts, XattrWhiteoutRemoval, LinkedNumbers, LowerCopyRange,
	}
}

// Harness is a driver to be tested.
type Harness struct {
	Driver    unionfs.Driver
	Namespace unionfs.Namespace // of the upper format that the driver writes

	// Layer turns a directory in upper format into a lower layer of the kind under
	// test, and names data directories that it needs. Nil takes the directory itself.
	Layer func(t testing.TB, dir string) (unionfs.Lower, []string)

	// Lacks names the powers that the driver does not have, each with the reason.
	Lacks map[Power]string
}

// lacks returns the reason why the first missing one of the needs is missing.
func (h Harness) lacks(needs []Power) (reason string, lacking bool) {
	for _, need := range needs {
		if why, ok := h.Lacks[need]; ok {
			return fmt.Sprintf("%s lacks %q: %s", h.Driver.Name(), need, why), true
		}
	}
	return "", false
}

// testCase is one row of a table.
type testCase struct {
	name   string
	needs  []Power
	layers [][]Entry // bottom to top
	ops    []Op      // applied to the union and the control alike
	check  func(t *testing.T, u *Union)

	// apart says that check changes the union alone, so that there is nothing to
	// compare with after it.
	apart bool
}

// theme is a table of cases about one thing.
type theme struct {
	name  string
	cases []testCase
}

// Run runs the whole suite. It skips, saying why, where the driver cannot serve the
// directory of temporary files.
func Run(t *testing.T, h Harness) {
	for power, reason := range h.Lacks {
		if !slices.Contains(powers(), power) || reason == "" {
			t.Fatalf("harness lacks %q for the reason %q: both must be known", power, reason)
		}
	}
	if err := h.Driver.Probe(t.Context(), t.TempDir()); err != nil {
		t.Skip(err)
	}
	for _, th := range []theme{
		layerCases(), whiteoutCases(), renameCases(), exchangeCases(), linkCases(), copyUpCases(), inodeCases(), readdirCases(),
		handleCases(), mappingCases(), dataCases(), permissionCases(), aclCases(), xattrCases(), metadataCases(), limitCases(),
		eventCases(), spaceCases(), concurrentCases(), randomCases(),
	} {
		t.Run(th.name, func(t *testing.T) {
			for _, c := range th.cases {
				t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) { runCase(t, h, c) })
			}
		})
	}
}

func runCase(t *testing.T, h Harness, c testCase) {
	if why, lacking := h.lacks(c.needs); lacking {
		t.Skip(why)
	}
	u := newUnion(t, h, c.layers)
	u.Apply(t, c.ops...)
	if c.check != nil {
		c.check(t, u)
	}
	if !t.Failed() && !c.apart {
		u.Verify(t)
	}
}
