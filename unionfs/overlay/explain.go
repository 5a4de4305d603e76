package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerfs/layerfs/internal/mountapi"
)

// explain adds to a failure what the kernel said about it and what to do next.
func explain(err error, said []string, p *plan) error {
	if len(said) > 0 {
		err = fmt.Errorf("%w (kernel log: %s)", err, strings.Join(said, "; "))
	}
	if todo := advice(err, p); todo != "" {
		err = fmt.Errorf("%w: %s", err, todo)
	}
	return err
}

// advice says what to do about a failed mount, or nothing.
func advice(err error, p *plan) string {
	var call *mountapi.Error
	var layer *layerError
	isCall, isLayer := errors.As(err, &call), errors.As(err, &layer)
	switch {
	case isCall && call.Op == "fsopen" && errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("the kernel has no %s; load its module (modprobe %s) or choose another driver", call.Object, call.Object)
	case errors.Is(err, unix.ENOSYS):
		return "the kernel lacks the new mount calls (Linux 5.2); choose another driver"
	case errors.Is(err, unix.EPERM):
		return "mounting with overlayfs needs root (CAP_SYS_ADMIN), at least of a user namespace; choose another driver"
	case isLayer && layer.tree && errors.Is(err, unix.ENOTBLK):
		return "EROFS refuses the file and no loop device could be had; load the loop module or keep the store on a plain local file system"
	case isLayer && layer.tree && isCall && call.Op == "fsconfig create":
		return "the file is no EROFS image that this kernel can read; a tree is a cache: remove the file and mount again to have it made anew"
	case isLayer && layer.handed && isCall && strings.HasSuffix(call.Op, "+"):
		return "the kernel does not take layers one by one (Linux 6.7) or has no data-only layers (Linux 6.8); choose another driver"
	case isCall && call.Op == "fsconfig create" && volatileBefore(p.work):
		return fmt.Sprintf("the upper directory was mounted volatile before, so its contents may be torn; throw it away, or remove %s if no crash has happened since", filepath.Join(p.work, "work", "incompat"))
	case isCall && call.Op == "fsconfig create" && errors.Is(err, unix.EINVAL) && p.upper != "" && differentDevice(p.upper, p.work):
		return "the upper and the work directory have to be on one file system"
	case isCall && call.Op == "fsconfig create" && errors.Is(err, unix.ELOOP):
		return "two of the directories are the same, or one lies within another"
	default:
		return ""
	}
}

func volatileBefore(work string) bool {
	if work == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(work, "work", "incompat", "volatile"))
	return err == nil
}

func differentDevice(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev != sb.Dev
}
