package seccomp

import (
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run gen.go

// arch is an architecture, in the order of callNumbers.
type arch int

const (
	archAMD64 arch = iota
	arch386
	archX32
	archARM64
	archARM
	archRISCV64
	archS390X
	archPPC64LE
	archLOONG64
)

// archInfo is what the kernel and specifications call an architecture. x32 shares its
// number in the audit system with amd64 and is told apart by a bit in the number of the
// call.
type archInfo struct {
	name  specs.Arch
	goos  string // its name in Go, if a launcher can run on it
	audit uint32 // AUDIT_ARCH_* of include/uapi/linux/audit.h
}

var archInfos = [...]archInfo{
	archAMD64:   {specs.ArchX86_64, "amd64", unix.AUDIT_ARCH_X86_64},
	arch386:     {specs.ArchX86, "", unix.AUDIT_ARCH_I386},
	archX32:     {specs.ArchX32, "", unix.AUDIT_ARCH_X86_64},
	archARM64:   {specs.ArchAARCH64, "arm64", unix.AUDIT_ARCH_AARCH64},
	archARM:     {specs.ArchARM, "", unix.AUDIT_ARCH_ARM},
	archRISCV64: {specs.ArchRISCV64, "riscv64", unix.AUDIT_ARCH_RISCV64},
	archS390X:   {specs.ArchS390X, "s390x", unix.AUDIT_ARCH_S390X},
	archPPC64LE: {specs.ArchPPC64LE, "ppc64le", unix.AUDIT_ARCH_PPC64LE},
	archLOONG64: {specs.ArchLOONGARCH64, "loong64", unix.AUDIT_ARCH_LOONGARCH64},
}

// x32Bit marks the numbers of x32 (__X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// native is the architecture of this program.
func native() (arch, error) {
	for i, a := range archInfos {
		if a.goos == runtime.GOARCH {
			return arch(i), nil
		}
	}
	return 0, fmt.Errorf("no table of system calls for %s: %w", runtime.GOARCH, errUnsupported)
}

// archesOf returns the native architecture and those of a profile, each once, and what
// of the profile there is no table for.
func archesOf(p *specs.LinuxSeccomp) (known []arch, unknown []string, err error) {
	first, err := native()
	if err != nil {
		return nil, nil, err
	}
	known = []arch{first}
next:
	for _, name := range p.Architectures {
		for i, a := range archInfos {
			if a.name == name {
				if !slices.Contains(known, arch(i)) {
					known = append(known, arch(i))
				}
				continue next
			}
		}
		if len(name) == 0 || len(name) > maxName {
			return nil, nil, fmt.Errorf("architecture of a name of %d bytes: %w", len(name), fs.ErrInvalid)
		}
		unknown = append(unknown, string(name))
	}
	return known, unknown, nil
}

// find returns the index of a call in callNames, or -1.
func find(name string) int {
	if i, ok := slices.BinarySearch(callNames[:], name); ok {
		return i
	}
	return -1
}

// multiplexed are calls that some architectures also, or only, have as a kind of another
// one, whose first argument says which (include/uapi/linux/net.h and ipc.h). A rule for
// one without conditions is a rule for that kind, too. Sorted.
var multiplexed = [...]multiplex{
	{"accept", "socketcall", 5},
	{"accept4", "socketcall", 18},
	{"bind", "socketcall", 2},
	{"connect", "socketcall", 3},
	{"getpeername", "socketcall", 7},
	{"getsockname", "socketcall", 6},
	{"getsockopt", "socketcall", 15},
	{"listen", "socketcall", 4},
	{"msgctl", "ipc", 14},
	{"msgget", "ipc", 13},
	{"msgrcv", "ipc", 12},
	{"msgsnd", "ipc", 11},
	{"recv", "socketcall", 10},
	{"recvfrom", "socketcall", 12},
	{"recvmmsg", "socketcall", 19},
	{"recvmsg", "socketcall", 17},
	{"semctl", "ipc", 3},
	{"semget", "ipc", 2},
	{"semop", "ipc", 1},
	{"semtimedop", "ipc", 4},
	{"send", "socketcall", 9},
	{"sendmmsg", "socketcall", 20},
	{"sendmsg", "socketcall", 16},
	{"sendto", "socketcall", 11},
	{"setsockopt", "socketcall", 14},
	{"shmat", "ipc", 21},
	{"shmctl", "ipc", 24},
	{"shmdt", "ipc", 22},
	{"shmget", "ipc", 23},
	{"shutdown", "socketcall", 13},
	{"socket", "socketcall", 1},
	{"socketpair", "socketcall", 8},
}

// multiplex is a call that is also a kind of another one.
type multiplex struct {
	name, call string
	kind       uint64
}

func kindOf(name string) (multiplex, bool) {
	i, ok := slices.BinarySearchFunc(multiplexed[:], name, func(m multiplex, name string) int { return strings.Compare(m.name, name) })
	if !ok {
		return multiplex{}, false
	}
	return multiplexed[i], true
}
