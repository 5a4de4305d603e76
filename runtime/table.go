package runtime

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kind says what the child does with the outcome of a row.
type kind uint8

const (
	kindCall     kind = iota
	kindReport        // the result is the descriptor to report failures on from now on
	kindZero          // a result other than zero is a failure (ESRCH)
	kindOne           // a result other than one is a failure (ESRCH)
	kindAbsolute      // text must begin with "/", else it is a failure (ENOENT)
	kindKeep          // the result is written to text, as a C int
	kindTry           // a candidate of the program: a failure is kept and the next is tried
)

// maxTolerated is how many errnos a row can tolerate.
const maxTolerated = 4

// op is a row of the table: a system call. It has no methods and holds no pointer but
// text, because the child that runs it may do next to nothing (see child.go).
type op struct {
	nr       uintptr
	args     [6]uintptr
	from     [6]uint16 // 1 + the row whose result is the argument; 0: args has it
	tolerate [maxTolerated]uint16
	skipErr  uint16 // rows to skip after a tolerated failure
	skipOK   uint16 // rows to skip after success
	kind     kind
	text     *byte // of kindAbsolute and kindKeep
	result   uintptr
}

// step describes a row for a message.
type step struct{ what, object string }

// result is a row of the table, standing for what its system call returns.
type result int

// table is the work of the child, with what its rows point to.
type table struct {
	ops   []op
	steps []step
	keep  []any // what arguments point to
	err   error // the first string that cannot be passed to the kernel
}

func newTable() *table {
	const usual = 256 // rows of the default specification, so that nothing is copied
	return &table{ops: make([]op, 0, usual), steps: make([]step, 0, usual), keep: make([]any, 0, 2*usual)}
}

// call adds a row. An argument is an int, a uintptr, a string (passed as C has it), a
// [result] of an earlier row, or a pointer into the heap made by [at].
func (t *table) call(s step, nr uintptr, args ...any) result {
	o := op{nr: nr}
	for i, a := range args {
		switch v := a.(type) {
		case int:
			o.args[i] = uintptr(v)
		case uintptr:
			o.args[i] = v
		case string:
			o.args[i] = t.str(v)
		case result:
			o.from[i] = uint16(v) + 1
		case address:
			t.keep = append(t.keep, v.object)
			o.args[i] = v.at
		default:
			panic(fmt.Sprintf("runtime: argument %d of %q has type %T", i, s.what, a))
		}
	}
	t.ops = append(t.ops, o)
	t.steps = append(t.steps, s)
	return result(len(t.ops) - 1)
}

// str returns the address of s with a NUL behind it.
func (t *table) str(s string) uintptr {
	if strings.IndexByte(s, 0) >= 0 && t.err == nil {
		t.err = fmt.Errorf("%q holds a NUL byte: %w", s, syscall.EINVAL)
	}
	b := make([]byte, len(s)+1)
	copy(b, s)
	t.keep = append(t.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// address is memory of an object on the heap.
type address struct {
	object any
	at     uintptr
}

// at makes an argument of a pointer. The table keeps the object alive.
func at[T any](p *T) address { return address{p, uintptr(unsafe.Pointer(p))} }

// last returns the row added last, to be refined at once.
func (t *table) last() *op { return &t.ops[len(t.ops)-1] }

// allow makes failures with these errnos of the last row no failures, after which
// skip rows are passed over.
func (t *table) allow(skip int, errnos ...syscall.Errno) {
	o := t.last()
	for i, e := range errnos {
		o.tolerate[i] = uint16(e)
	}
	o.skipErr = uint16(skip)
}

// The calls that steps share.

// open adds openat2 of a path in the root: symbolic links stay inside the root, magic
// links are not followed.
func (t *table) open(s step, dir any, path string, flags int, more uint64) result {
	how := &unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | more,
	}
	if path == "" {
		path = "."
	}
	return t.call(s, unix.SYS_OPENAT2, dir, path, at(how), int(unsafe.Sizeof(*how)))
}

// attach adds move_mount of a detached mount onto a handle.
func (t *table) attach(s step, mount, target any) {
	t.call(s, unix.SYS_MOVE_MOUNT, mount, "", target, "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// setattr adds mount_setattr on a mount and those below it.
func (t *table) setattr(s step, mount any, attr *unix.MountAttr, flags int) {
	t.call(s, unix.SYS_MOUNT_SETATTR, mount, "", unix.AT_EMPTY_PATH|flags, at(attr), int(unsafe.Sizeof(*attr)))
}
