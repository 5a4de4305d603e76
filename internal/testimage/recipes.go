package testimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// suite is the release of Debian that images are made of.
const suite = "bookworm"

// epoch returns the time of files that have no time of their own.
func epoch() time.Time { return time.Unix(1_700_000_000, 123_456_789) }

func busybox(ctx context.Context, dir string) error {
	root := dir + ".root"
	for _, d := range []string{"", "bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	host, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	program, err := os.ReadFile(host)
	if err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, host, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	bin := filepath.Join(root, "bin")
	errs := []error{
		os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755),
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\n"), 0o644),
		os.Chmod(filepath.Join(root, "tmp"), 0o1777),
	}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			errs = append(errs, os.Link(filepath.Join(bin, "busybox"), filepath.Join(bin, name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := setTimes(root, epoch()); err != nil {
		return err
	}
	return errors.Join(packTar(ctx, root, layerFile(dir, 0)), os.RemoveAll(root))
}

// setTimes gives everything below dir one time.
func setTimes(dir string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return walk(dir, func(path string, _ *unix.Stat_t) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// walk visits everything below dir, directories before what is in them.
func walk(dir string, fn func(path string, st *unix.Stat_t) error) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("lstat %q: %w", path, err)
		}
		return fn(path, &st)
	})
}

func minbase(ctx context.Context, dir string) error {
	return command(ctx, "", "mmdebstrap", "--quiet", "--variant=minbase", suite, layerFile(dir, 0))
}

func web(ctx context.Context, dir string) error {
	return command(ctx, "", "mmdebstrap", "--quiet", "--variant=essential", "--include=nginx-light,busybox", suite, layerFile(dir, 0))
}

// layered runs the script in a mount namespace of its own and turns the directories that
// it leaves into layers.
func layered(kind string) func(ctx context.Context, dir string) error {
	return func(ctx context.Context, dir string) error {
		work := dir + ".work"
		if err := os.Mkdir(work, 0o700); err != nil {
			return err
		}
		if err := command(ctx, work, "unshare", "--mount", "--propagation", "private",
			"bash", "-c", layeredScript, "layered.sh", work, kind); err != nil {
			return err
		}
		uppers, err := filepath.Glob(filepath.Join(work, "[0-9][0-9]"))
		if err != nil {
			return err
		}
		for n, upper := range uppers {
			if err := toLayer(upper); err != nil {
				return err
			}
			if err := packTar(ctx, upper, layerFile(dir, n)); err != nil {
				return err
			}
		}
		return os.RemoveAll(work)
	}
}

// Names that stand for deletions in a layer's tar, from the OCI image specification,
// layer.md.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// toLayer rewrites an upper directory of overlayfs in place as an OCI layer has it:
// devices 0/0 become files with a prefix to their names, opaque directories get a
// marker, and the attributes of overlayfs disappear. Times of directories stay.
func toLayer(upper string) error {
	return walk(upper, func(path string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			dir, name := filepath.Split(path)
			return keepTimes(dir, func() error {
				return errors.Join(os.Remove(path), emptyFile(filepath.Join(dir, whiteoutPrefix+name)))
			})
		}
		opaque, err := dropOverlayXattrs(path)
		if err != nil {
			return err
		}
		if opaque && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return keepTimes(path, func() error { return emptyFile(filepath.Join(path, opaqueMarker)) })
		}
		return nil
	})
}

func dropOverlayXattrs(path string) (opaque bool, err error) {
	names, err := listXattrs(path)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		opaque = opaque || name == "trusted.overlay.opaque"
		if err := unix.Lremovexattr(path, name); err != nil {
			return false, fmt.Errorf("remove attribute %s of %s: %w", name, path, err)
		}
	}
	return opaque, nil
}

// emptyFile makes a whiteout as Docker does: empty, without permissions, at the epoch.
func emptyFile(path string) error {
	if err := os.WriteFile(path, nil, 0); err != nil {
		return err
	}
	zero := []unix.Timespec{{}, {}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, zero, 0)
}

// keepTimes runs fn and then gives dir the times back that it had before.
func keepTimes(dir string, fn func() error) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	return errors.Join(fn(),
		unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
}
