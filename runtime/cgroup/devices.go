package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxRules limits the rules of a list, well below what a program may have instructions.
const maxRules = 4096

// DefaultDevices are what every container may do with devices: use those that the OCI
// runtime specification puts into /dev, terminals, and make nodes of any number, which
// is of no use by itself.
func DefaultDevices() []specs.LinuxDeviceCgroup {
	number := func(n int64) *int64 { return &n }
	rules := []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [...][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, // tty, console, ptmx
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(d[0]), Minor: number(d[1]), Access: "rwm"})
	}
	return append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(136), Access: "rwm"}) // ends of terminals
}

// rule is a device rule: a later one overrides the earlier ones.
type rule struct {
	allow        bool
	kind         byte  // 'a', 'b' or 'c'
	major, minor int64 // or any
	access       uint32
}

const (
	anyNumber = -1
	anyKind   = 'a'
)

// Bits of the access, from include/uapi/linux/bpf.h.
const (
	accessMake  = unix.BPF_DEVCG_ACC_MKNOD
	accessRead  = unix.BPF_DEVCG_ACC_READ
	accessWrite = unix.BPF_DEVCG_ACC_WRITE
	accessAll   = accessMake | accessRead | accessWrite
)

// parseRules returns the rules and, after them, the defaults.
func parseRules(wanted []specs.LinuxDeviceCgroup) ([]rule, error) {
	if len(wanted) > maxRules {
		return nil, fmt.Errorf("%d device rules, at most %d: %w", len(wanted), maxRules, fs.ErrInvalid)
	}
	var rules []rule
	for _, w := range append(append([]specs.LinuxDeviceCgroup(nil), wanted...), DefaultDevices()...) {
		r := rule{allow: w.Allow, major: anyNumber, minor: anyNumber}
		switch w.Type {
		case "", "a":
			r.kind = anyKind
		case "b", "c":
			r.kind = w.Type[0]
		case "u": // another name of "c"
			r.kind = 'c'
		default:
			return nil, fmt.Errorf("device rule of type %q: %w", w.Type, fs.ErrInvalid)
		}
		for _, n := range []struct {
			from *int64
			to   *int64
		}{{w.Major, &r.major}, {w.Minor, &r.minor}} {
			if n.from == nil || *n.from == anyNumber {
				continue
			}
			if *n.from < 0 || *n.from > math.MaxUint32 {
				return nil, fmt.Errorf("device rule with number %d: %w", *n.from, fs.ErrInvalid)
			}
			*n.to = *n.from
		}
		for _, c := range w.Access {
			switch c {
			case 'm':
				r.access |= accessMake
			case 'r':
				r.access |= accessRead
			case 'w':
				r.access |= accessWrite
			default:
				return nil, fmt.Errorf("device rule with access %q: %w", w.Access, fs.ErrInvalid)
			}
		}
		if w.Access == "" {
			r.access = accessAll
		}
		if r.kind == anyKind && (r.major != anyNumber || r.minor != anyNumber || r.access != accessAll) {
			return nil, fmt.Errorf("device rule for all devices names numbers or an access: %w", fs.ErrInvalid)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// allowDevices puts the rules into force.
func (g *Group) allowDevices(wanted []specs.LinuxDeviceCgroup) error {
	rules, err := parseRules(wanted)
	if err != nil {
		return err
	}
	if h, ok := g.with("devices"); ok && !h.unified {
		return writeRules(h, rules)
	}
	if h, ok := g.unified(); ok {
		return attach(h.dir, deviceProgram(rules))
	}
	return fmt.Errorf("no devices controller: %w", errors.ErrUnsupported)
}

// writeRules writes the lists of version 1 (devices.rst).
func writeRules(h hierarchy, rules []rule) error {
	for _, r := range rules {
		name := "devices.deny"
		if r.allow {
			name = "devices.allow"
		}
		if err := write(filepath.Join(h.dir, name), r.String()); err != nil {
			return fmt.Errorf("write %q to %s: %w", r, name, err)
		}
	}
	return nil
}

// String is the rule as version 1 writes it.
func (r rule) String() string {
	if r.kind == anyKind {
		return "a"
	}
	text := func(n int64) string {
		if n == anyNumber {
			return "*"
		}
		return fmt.Sprint(n)
	}
	var access strings.Builder
	for _, a := range []struct {
		bit  uint32
		name byte
	}{{accessRead, 'r'}, {accessWrite, 'w'}, {accessMake, 'm'}} {
		if r.access&a.bit != 0 {
			access.WriteByte(a.name)
		}
	}
	return fmt.Sprintf("%c %s:%s %s", r.kind, text(r.major), text(r.minor), access.String())
}

// deviceProgram compiles rules to a program of the eBPF machine, of type
// BPF_PROG_TYPE_CGROUP_DEVICE. It is given struct bpf_cgroup_dev_ctx: the type of device
// and, above 16 bits, the access, then major and minor number. The last rule that says
// something about an access decides; without one it is refused.
//
// An access of several bits is allowed only if each is: the bits that are still to be
// decided are kept in a register, and each rule decides those that it names.
func deviceProgram(rules []rule) []byte {
	const (
		result, ctx, kind, access, major, minor, scratch = 0, 1, 2, 3, 4, 5, 6 // registers
		atType, atMajor, atMinor                         = 0, 4, 8

		load       = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
		move       = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
		moveImm    = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
		andImm     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		shiftRight = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
		jumpIf     = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
		jumpIfNot  = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
		exit       = unix.BPF_JMP | unix.BPF_EXIT
	)
	var p program
	p.add(load, kind, ctx, atType, 0)
	p.add(move, access, kind, 0, 0)
	p.add(shiftRight, access, 0, 0, 16)
	p.add(andImm, kind, 0, 0, 0xffff)
	p.add(load, major, ctx, atMajor, 0)
	p.add(load, minor, ctx, atMinor, 0)
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		var checks [][2]uint32 // register, value
		if r.kind != anyKind {
			k := uint32(unix.BPF_DEVCG_DEV_CHAR)
			if r.kind == 'b' {
				k = unix.BPF_DEVCG_DEV_BLOCK
			}
			checks = append(checks, [2]uint32{kind, k})
		}
		if r.major != anyNumber {
			checks = append(checks, [2]uint32{major, uint32(r.major)})
		}
		if r.minor != anyNumber {
			checks = append(checks, [2]uint32{minor, uint32(r.minor)})
		}
		decision := 5 // instructions below
		if r.allow {
			decision = 4
		}
		for j, c := range checks {
			p.add(jumpIfNot, byte(c[0]), 0, int16(len(checks)-1-j+decision), c[1])
		}
		if r.allow {
			// Clear the bits; if none is left, all are allowed.
			p.add(andImm, access, 0, 0, ^r.access)
			p.add(jumpIfNot, access, 0, 2, 0)
			p.add(moveImm, result, 0, 0, 1)
			p.add(exit, 0, 0, 0, 0)
			continue
		}
		// If one of the bits is still to be decided, it is refused.
		p.add(move, scratch, access, 0, 0)
		p.add(andImm, scratch, 0, 0, r.access)
		p.add(jumpIf, scratch, 0, 2, 0)
		p.add(moveImm, result, 0, 0, 0)
		p.add(exit, 0, 0, 0, 0)
	}
	p.add(moveImm, result, 0, 0, 0)
	p.add(exit, 0, 0, 0, 0)
	return p.code
}

// program is a list of struct bpf_insn.
type program struct{ code []byte }

func (p *program) add(op, dst, src byte, offset int16, imm uint32) {
	p.code = append(p.code, op, src<<4|dst)
	p.code = binary.NativeEndian.AppendUint16(p.code, uint16(offset))
	p.code = binary.NativeEndian.AppendUint32(p.code, imm)
}

const sizeofInsn = 8

// attach loads the program and puts it into force for a group instead of the one that
// Apply attached before. Programs of others, an init system's, stay in force, too.
func attach(dir string, code []byte) error {
	// The kernel is given addresses in numbers, which the collector does not see.
	var pin runtime.Pinner
	defer pin.Unpin()
	license := []byte("Apache-2.0\x00")
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	load := struct {
		kind, count           uint32
		code, license         uint64
		logLevel, logSize     uint32
		log                   uint64
		kernelVersion, flags  uint32
		name                  [16]byte
		ifindex, expectedKind uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / sizeofInsn),
		code: address(code), license: address(license),
	}
	copy(load.name[:], "layerfs_devices")
	prog, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	if err != nil {
		return fmt.Errorf("load device program: %w", err)
	}
	defer unix.Close(prog) //nolint:errcheck // the kernel holds what is attached
	group, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("attach device program: %w", err)
	}
	defer unix.Close(group) //nolint:errcheck // only read
	old, err := attached(group)
	if err != nil {
		return err
	}
	link := struct{ target, prog, kind, flags, replace uint32 }{
		target: uint32(group), prog: uint32(prog), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI,
	}
	if old >= 0 {
		defer unix.Close(old) //nolint:errcheck // only a handle
		link.flags |= unix.BPF_F_REPLACE
		link.replace = uint32(old)
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&link), unsafe.Sizeof(link)); err != nil {
		return fmt.Errorf("attach device program: %w", err)
	}
	return nil
}

// attached returns the only program that is attached to the group itself, or -1.
func attached(group int) (int, error) {
	const most = 16
	ids := new([most]uint32)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(ids)
	query := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, _                         uint32
	}{target: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(ids))), count: most}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return -1, fmt.Errorf("look for device programs: %w", err)
	}
	if query.count != 1 {
		return -1, nil
	}
	byID := struct{ id, next, flags uint32 }{id: ids[0]}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
	if err != nil {
		return -1, fmt.Errorf("open device program: %w", err)
	}
	return fd, nil
}

func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }
