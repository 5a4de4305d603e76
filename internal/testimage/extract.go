package testimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Extract extracts layers, bottom to top, into a new directory, as an oracle for what
// their stack holds: GNU tar does the extracting, and the rules of the OCI image
// specification (layer.md) are applied here in the plainest way, on the directory.
// Needs root, and skips without. The directory is removed when the test ends.
func Extract(t testing.TB, layers ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("extracting owners and devices needs root")
	}
	dir := filepath.Join(t.TempDir(), "extracted")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := extract(t.Context(), dir, layers); err != nil {
		t.Fatal(err)
	}
	return dir
}

// impliedMode and impliedTimes are what a directory gets that no layer described.
const impliedMode os.FileMode = 0o755

func impliedTimes() []unix.Timespec { return []unix.Timespec{{}, {}} }

func extract(ctx context.Context, dir string, layers []string) error {
	if _, err := exec.LookPath("tar"); err != nil {
		return err
	}
	if err := os.Chmod(dir, impliedMode); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir, impliedTimes(), 0); err != nil {
		return err
	}
	for _, layer := range layers {
		if err := extractLayer(ctx, dir, layer); err != nil {
			return fmt.Errorf("extract %s: %w", layer, err)
		}
	}
	return nil
}

// extractLayer removes what the layer says is gone or replaced, lets GNU tar extract
// the rest, and repairs the times of the directories that only served as places.
func extractLayer(ctx context.Context, dir, layer string) error {
	headers, err := readHeaders(layer)
	if err != nil {
		return err
	}
	described := map[string]bool{} // directories that have an entry of their own
	parents := map[string]*unix.Stat_t{}
	for _, h := range headers {
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			described[path] = true
		}
		// Remember directories as they are before anything in them changes.
		for p := filepath.Dir(path); len(p) >= len(dir); p = filepath.Dir(p) {
			if _, seen := parents[p]; seen {
				break
			}
			parents[p] = nil
			var st unix.Stat_t
			if err := unix.Stat(p, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				parents[p] = &st
			}
		}
	}
	for _, h := range headers {
		if err := clearWay(dir, h); err != nil {
			return err
		}
	}
	acls, err := aclOption(headers)
	if err != nil {
		return err
	}
	err = command(ctx, dir, "tar", "--extract", "--file", layer, "--directory", dir,
		"--numeric-owner", "--same-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", acls,
		"--delay-directory-restore", "--warning=no-timestamp", "--exclude="+whiteoutPrefix+"*")
	if err != nil {
		return err
	}
	for p, before := range parents {
		if described[p] {
			continue
		}
		times := impliedTimes()
		if before != nil {
			times = []unix.Timespec{before.Atim, before.Mtim}
		} else if err := os.Chmod(p, impliedMode); errors.Is(err, fs.ErrNotExist) {
			continue // the place of a whiteout of nothing
		} else if err != nil {
			return err
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, times, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// clearWay removes what must go before the entry's layer is extracted: what a whiteout
// names, what an opaque directory hides, and what an entry of another type replaces.
func clearWay(dir string, h *tar.Header) error {
	path := filepath.Join(dir, h.Name)
	parent, name := filepath.Split(path)
	if name == opaqueMarker {
		entries, err := os.ReadDir(parent)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(parent, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	if hidden, ok := strings.CutPrefix(name, whiteoutPrefix); ok {
		return os.RemoveAll(filepath.Join(parent, hidden))
	}
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	} else if err != nil {
		return err
	}
	if st.IsDir() != (h.Typeflag == tar.TypeDir) {
		return os.RemoveAll(path)
	}
	return nil
}

// aclOption says how GNU tar must be told of ACLs. With --acls it writes them as text in
// headers of their own (and, when told to include all attributes, once more as those),
// and reads the text only; without, it treats them as any other extended attribute. A
// layer with entries that need the one and the other is more than one run can extract.
func aclOption(headers []*tar.Header) (string, error) {
	text, attributeOnly := false, false
	for _, h := range headers {
		for _, kind := range []string{"access", "default"} {
			_, asText := h.PAXRecords["SCHILY.acl."+kind]
			_, asAttribute := h.PAXRecords["SCHILY.xattr.system.posix_acl_"+kind]
			text = text || asText
			attributeOnly = attributeOnly || asAttribute && !asText
		}
	}
	switch {
	case text && attributeOnly:
		return "", errors.New("some entries have ACLs as text only, others as attributes only")
	case attributeOnly:
		return "--no-acls", nil
	default:
		return "--acls", nil
	}
}

// readHeaders reads the names and types of a plain tar.
func readHeaders(layer string) (headers []*tar.Header, err error) {
	f, err := os.Open(layer)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, nil
		} else if err != nil {
			return nil, err
		}
		headers = append(headers, h)
	}
}
