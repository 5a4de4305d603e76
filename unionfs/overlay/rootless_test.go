package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/layerfs/layerfs/internal/mountapi"
	"github.com/layerfs/layerfs/internal/testenv"
	"github.com/layerfs/layerfs/internal/userns"
	"github.com/layerfs/layerfs/unionfs"
	"github.com/layerfs/layerfs/unionfs/fuse/treefs"
	"github.com/layerfs/layerfs/unionfs/overlay"
	"github.com/layerfs/layerfs/unionfs/unionfstest"
)

const (
	keeper = "keep-namespace"
	// inside is set in the environment of a test program that is root of a user
	// namespace.
	inside = "LAYERFS_TEST_IN_USER_NAMESPACE"
	// testUser is the ordinary user as whom root runs such tests; see tools/setup.sh.
	testUser = "layerfs-test"
)

// inNamespace runs the test in a user namespace, of an ordinary user: it returns true
// there. Elsewhere it executes the test program again for this test alone, and returns
// false when that is done.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	testenv.FuseDevice(t)
	self, err := os.Executable()
	must(t, err)
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=10m"}
	dir := testenv.ShortDir(t)
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
	if os.Geteuid() != 0 {
		lock := filepath.Join(dir, "lock")
		space := userns.Space{File: lock, Keeper: []string{self, keeper, lock}}
		// It has the descriptors of this process.
		code, err := space.Run(userns.Command{Args: append([]string{self}, args...), Env: append(cmd.Env, inside+"=1"), Dir: "/"})
		if errors.Is(err, os.ErrPermission) {
			t.Skipf("needs user namespaces for ordinary users: %v", err)
		}
		must(t, err)
		if code != 0 {
			t.Errorf("in the user namespace the test ended with code %d", code)
		}
		return false
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(t, dir)}
	cmd.Path = readable(t, self, dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as %s the test ended with %v:\n%s", testUser, err, quoted(out))
	} else if bytes.Contains(out, []byte("\n--- SKIP: "+t.Name())) {
		t.Skipf("as %s it is skipped:\n%s", testUser, quoted(out))
	}
	return false
}

// quoted marks the lines of another test program, which are not results of this one.
func quoted(out []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if t := strings.TrimSpace(line); strings.HasPrefix(t, "=== ") || strings.HasPrefix(t, "--- PASS") {
			continue
		}
		b.WriteString("| " + line)
	}
	return b.String()
}

func credential(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(testUser)
	if err != nil {
		t.Skipf("needs the user of rootless tests: %v; make setup makes it", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	must(t, err)
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	must(t, err)
	must(t, os.Chown(dir, int(uid), int(gid)))
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// readable copies the test program to where any user comes.
func readable(t *testing.T, self, dir string) string {
	t.Helper()
	data, err := os.ReadFile(self)
	must(t, err)
	must(t, os.Chmod(os.TempDir(), 0o711)) // unionfstest.Main has made it
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err != nil || d != dir && st.Mode()&0o001 == 0 {
			t.Skipf("needs a temporary directory that other users can reach: %s has mode %v, %v", d, st.Mode(), err)
		}
	}
	path := filepath.Join(dir, "test")
	must(t, os.WriteFile(path, data, 0o755))
	return path
}

// rootless returns the driver for a user namespace.
func rootless(t testing.TB, data bool) *overlay.Driver {
	t.Helper()
	return overlay.New(overlay.Options{UserNamespace: true, TreeData: data, Trees: mountTree})
}

func mountTree(ctx context.Context, tree string, data []string, ns unionfs.Namespace) (*mountapi.Mount, error) {
	m, err := userns.Current()
	if err != nil {
		return nil, err
	}
	var owners treefs.Owners
	for _, r := range m.UIDs {
		owners.UIDs = append(owners.UIDs, treefs.Range{First: uint32(r.Inside), Count: uint32(r.Count)})
	}
	for _, r := range m.GIDs {
		owners.GIDs = append(owners.GIDs, treefs.Range{First: uint32(r.Inside), Count: uint32(r.Count)})
	}
	return treefs.Mounter{Owners: owners}.Mount(ctx, treefs.Options{Tree: tree, Data: data, Namespace: ns})
}

// rootlessLack is lacks for a user namespace.
func rootlessLack(t testing.TB) map[unionfstest.Power]string {
	t.Helper()
	all := lacks()
	all[unionfstest.DirRename] = "overlayfs refuses redirect_dir in a user namespace"
	all[unionfstest.MetadataCopyUp] = "overlayfs refuses metacopy in a user namespace"
	all[unionfstest.Devices] = "a user namespace may not make devices"
	all[unionfstest.TrustedXattrs] = "a user namespace may not set trusted attributes"
	all[unionfstest.InodeFlags] = "changing them needs a capability in the initial user namespace"
	all[unionfstest.StableInodes] = "overlayfs finds the origin of what was copied up by file handle, for which it wants a capability in the initial user namespace"
	all[unionfstest.LinkedNumbers] = "so two names of one file are two files to it, unless it has seen them being linked"
	m, err := userns.Current()
	must(t, err)
	if m.Single() {
		all[unionfstest.Users] = "there is one user in this namespace: the user has no subordinate ids"
	}
	return all
}

// bottomTree makes a tree of the bottom layer; the others are directories, as the uppers
// of forks are.
func bottomTree(t testing.TB, dir string) (unionfs.Lower, []string) {
	t.Helper()
	if filepath.Base(dir) != "lower0" {
		return unionfs.Lower{Dir: dir}, nil
	}
	return unionfstest.AsTree(t, dir, unionfs.User)
}

func TestConformanceRootlessOfDirectories(t *testing.T) {
	if inNamespace(t) {
		unionfstest.Run(t, unionfstest.Harness{Driver: rootless(t, false), Namespace: unionfs.User, Lacks: rootlessLack(t)})
	}
}

func TestConformanceRootlessOfMetadata(t *testing.T) {
	if inNamespace(t) {
		unionfstest.Run(t, unionfstest.Harness{Driver: rootless(t, false), Namespace: unionfs.User, Lacks: rootlessLack(t), Layer: bottomTree})
	}
}

func TestConformanceRootlessOfData(t *testing.T) {
	if inNamespace(t) {
		lack := rootlessLack(t)
		lack[unionfstest.LowerCopyRange] = "the lower file is on FUSE and the new one is not (EXDEV)"
		unionfstest.Run(t, unionfstest.Harness{Driver: rootless(t, true), Namespace: unionfs.User, Lacks: lack, Layer: bottomTree})
	}
}

func TestRootlessFeatures(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	for _, data := range []bool{false, true} {
		driver := rootless(t, data)
		must(t, driver.Probe(t.Context(), dir))
		features := driver.Features(t.Context(), dir)
		for name, want := range map[string]bool{
			unionfs.FeatureDriver: true, unionfs.FeatureStackedTrees: data, unionfs.FeatureMetadataCopyUp: false,
			unionfs.FeatureDirRename: false, overlay.FeatureTrees: false, overlay.FeatureDirectData: !data,
		} {
			if got := unionfs.HasFeature(features, name); got != want {
				t.Errorf("contents by the server %v: %s is %v, want %v: %+v", data, name, got, want, features)
			}
		}
	}
	// Without somebody to mount trees there is none that could.
	err := overlay.New(overlay.Options{UserNamespace: true}).Probe(t.Context(), dir)
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("probing without a mounter of trees: %v", err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) > 0 {
		t.Error(fmt.Sprint("probing left something behind: ", entries))
	}
}
