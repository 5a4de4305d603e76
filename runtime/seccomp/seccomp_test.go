package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// data is a call as the kernel shows it to a program.
type data struct {
	number, arch uint32
	args         [6]uint64
}

func (d data) word(at uint32) uint32 {
	var b [64]byte
	binary.NativeEndian.PutUint32(b[0:], d.number)
	binary.NativeEndian.PutUint32(b[4:], d.arch)
	for i, a := range d.args {
		binary.NativeEndian.PutUint64(b[16+8*i:], a)
	}
	return binary.NativeEndian.Uint32(b[at:])
}

// runProgram interprets the instructions that the compiler uses, as the kernel does.
func runProgram(t *testing.T, program []unix.SockFilter, d data) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		var holds bool
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = d.word(i.K)
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = a == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = a >= i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = a > i.K
		default:
			t.Fatalf("instruction %d has code %#x", pc, i.Code)
		}
		if holds {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	t.Fatal("the program has no end")
	return 0
}

// naive is what a profile says of a call, by looking through its rules.
type naive struct {
	profile *specs.LinuxSeccomp
	names   map[arch]map[uint32][]string // by number
	largest map[arch]uint32
	arches  []arch
}

func newNaive(p *specs.LinuxSeccomp) *naive {
	n := &naive{profile: p, names: map[arch]map[uint32][]string{}, largest: map[arch]uint32{}}
	for a := range archInfos {
		if archInfos[a].goos == "amd64" || slices.Contains(p.Architectures, archInfos[a].name) {
			n.arches = append(n.arches, arch(a))
		}
	}
	for _, a := range n.arches {
		n.names[a] = map[uint32][]string{}
		for i, name := range callNames {
			if number := callNumbers[a][i]; number >= 0 {
				n.names[a][uint32(number)] = append(n.names[a][uint32(number)], name)
			}
		}
		for number := range n.names[a] {
			for _, s := range p.Syscalls {
				if n.kind(a, s, number) >= 0 {
					n.largest[a] = max(n.largest[a], number)
				}
			}
		}
	}
	return n
}

// kind tells whether a rule is for a number: -1 not, 0 for the call itself, else for
// that kind of it.
func (n *naive) kind(a arch, s specs.LinuxSyscall, number uint32) int {
	for _, name := range s.Names {
		if slices.Contains(n.names[a][number], name) {
			return 0
		}
		if m, ok := kindOf(name); ok && len(s.Args) == 0 && slices.Contains(n.names[a][number], m.call) {
			return int(m.kind)
		}
	}
	return -1
}

func holds(a specs.LinuxSeccompArg, args [6]uint64) bool {
	v := args[a.Index]
	switch a.Op {
	case specs.OpEqualTo:
		return v == a.Value
	case specs.OpNotEqual:
		return v != a.Value
	case specs.OpLessThan:
		return v < a.Value
	case specs.OpLessEqual:
		return v <= a.Value
	case specs.OpGreaterThan:
		return v > a.Value
	case specs.OpGreaterEqual:
		return v >= a.Value
	case specs.OpMaskedEqual:
		return v&a.Value == a.ValueTwo
	}
	panic("no such condition")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (n *naive) answer(d data) uint32 {
	which := arch(-1)
	for _, a := range n.arches {
		x32 := d.number >= x32Bit && d.arch == unix.AUDIT_ARCH_X86_64
		if archInfos[a].audit == d.arch && (a == archX32) == x32 {
			which = a
		}
	}
	if which < 0 {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	for _, conditional := range []bool{false, true} {
		for _, s := range n.profile.Syscalls {
			// A name may stand in a rule more than once, as itself and as a kind.
			for _, name := range s.Names {
				one := s
				one.Names = []string{name}
				kind := n.kind(which, one, d.number)
				if kind < 0 || (kind > 0 || len(s.Args) > 0) != conditional {
					continue
				}
				matches := kind == 0 || d.args[0] == uint64(kind)
				indexes := map[uint]int{}
				for _, a := range s.Args {
					indexes[a.Index]++
				}
				if len(indexes) == len(s.Args) {
					for _, a := range s.Args {
						matches = matches && holds(a, d.args)
					}
				} else {
					matches = slices.ContainsFunc(s.Args, func(a specs.LinuxSeccompArg) bool { return holds(a, d.args) })
				}
				if matches {
					return must(action(s.Action, s.ErrnoRet))
				}
			}
		}
	}
	fallback := must(action(n.profile.DefaultAction, n.profile.DefaultErrnoRet))
	if len(n.profile.Syscalls) > 0 && d.number > n.largest[which] && n.largest[which] > 0 && n.profile.DefaultAction == specs.ActErrno {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return fallback
}

// arguments are values around those of the rules for a number.
func (n *naive) arguments(number uint32) [][6]uint64 {
	values := [6][]uint64{}
	for i := range values {
		values[i] = []uint64{0}
	}
	for _, a := range n.arches {
		for _, s := range n.profile.Syscalls {
			switch kind := n.kind(a, s, number); {
			case kind > 0:
				values[0] = append(values[0], uint64(kind), uint64(kind)|1<<32, uint64(kind)+1)
			case kind == 0:
				for _, c := range s.Args {
					values[c.Index] = append(values[c.Index], c.Value, c.Value-1, c.Value+1, c.Value^1<<32, c.Value^1<<63, ^c.Value, c.ValueTwo, c.ValueTwo|1, ^uint64(0))
				}
			}
		}
	}
	all := [][6]uint64{{}}
	for i, v := range values {
		slices.Sort(v)
		v = slices.Compact(v)
		if len(v) == 1 {
			continue
		}
		var more [][6]uint64
		for _, args := range all {
			for _, x := range v {
				args[i] = x
				more = append(more, args)
			}
		}
		all = more
	}
	return all
}

// proveEqual runs program and profile over every number of every architecture, some that
// none has, and the arguments at which a rule could change its mind.
func proveEqual(t *testing.T, p *specs.LinuxSeccomp) {
	t.Helper()
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	n := newNaive(p)
	var numbers []uint32
	for i := range uint32(560) {
		numbers = append(numbers, i, x32Bit+i)
	}
	for i := range uint32(8) {
		numbers = append(numbers, 0xf0000+i)
	}
	numbers = append(numbers, x32Bit-1, 1<<31-1, 1<<31, ^uint32(0), ^uint32(0)-1, 5000, 6000, 0x0f0005)
	count := 0
	for _, number := range numbers {
		args := n.arguments(number)
		for _, audit := range []uint32{
			unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_RISCV64,
			unix.AUDIT_ARCH_S390X, unix.AUDIT_ARCH_PPC64LE, unix.AUDIT_ARCH_LOONGARCH64, unix.AUDIT_ARCH_MIPS64, 0, ^uint32(0),
		} {
			for _, a := range args {
				d := data{number, audit, a}
				count++
				if got, want := runProgram(t, f.Program, d), n.answer(d); got != want {
					t.Fatalf("call %+v (%v): program %#x, profile %#x", d, n.names[archAMD64][number], got, want)
				}
			}
		}
	}
	t.Logf("%d instructions, equal on %d calls; not known: %v", len(f.Program), count, f.Unknown)
}

func TestDefaultProfile(t *testing.T) {
	usual := []string{"CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_MKNOD"}
	for name, caps := range map[string][]string{"usual": usual, "none": nil, "many": {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYS_MODULE", "CAP_SYS_NICE"}} {
		t.Run(name, func(t *testing.T) {
			p, err := Default(caps)
			if err != nil {
				t.Fatal(err)
			}
			proveEqual(t, p)
			if testing.Short() {
				return
			}
			// On the architectures of others, too.
			all := *p
			all.Architectures = nil
			for _, a := range archInfos {
				all.Architectures = append(all.Architectures, a.name)
			}
			proveEqual(t, &all)
		})
	}
}

// The library's own text, read, is the library's profile.
func TestLoadIsDefault(t *testing.T) {
	text, err := json.Marshal(seccomp.DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(text, []string{"CAP_BPF"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Default([]string{"CAP_BPF"})
	if err != nil {
		t.Fatal(err)
	}
	a, b := must(Compile(loaded)), must(Compile(p))
	if !slices.Equal(a.Program, b.Program) {
		t.Error("the profile is another one when it is read")
	}
}

var (
	operators = []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
	}
	actions = []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActTrace, specs.ActLog,
	}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// randomProfile has all that a profile can have.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: pick(r, actions)}
	for _, a := range archInfos {
		if r.IntN(3) == 0 {
			p.Architectures = append(p.Architectures, a.name)
		}
	}
	values := []uint64{0, 1, 5, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 | 5, 1 << 63, ^uint64(0)}
	for range r.IntN(25) {
		s := specs.LinuxSyscall{Action: pick(r, actions)}
		if s.Action == specs.ActErrno && r.IntN(2) == 0 {
			number := uint(r.IntN(100))
			s.ErrnoRet = &number
		}
		for range 1 + r.IntN(8) {
			s.Names = append(s.Names, pick(r, callNames[:]))
		}
		if r.IntN(2) == 0 {
			for range 1 + r.IntN(2) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(r.IntN(6)), Value: pick(r, values), ValueTwo: pick(r, values), Op: pick(r, operators)})
			}
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func TestRandomProfiles(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 2 // an interpreter is slow under the race detector, and nothing here is concurrent
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			proveEqual(t, randomProfile(rand.New(rand.NewPCG(seed, 1))))
		})
	}
}

func TestRefused(t *testing.T) {
	ok := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow}
	number, large := uint(1), uint(1<<16)
	for name, c := range map[string]struct {
		p     specs.LinuxSeccomp
		class error
	}{
		"no action":        {specs.LinuxSeccomp{}, fs.ErrInvalid},
		"unknown action":   {specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_X"}, fs.ErrInvalid},
		"notify":           {specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, errors.ErrUnsupported},
		"listener":         {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}, errors.ErrUnsupported},
		"number of allow":  {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: &number}, fs.ErrInvalid},
		"large number":     {specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &large}, fs.ErrInvalid},
		"flag":             {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, fs.ErrInvalid},
		"too many rules":   {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: slices.Repeat([]specs.LinuxSyscall{ok}, maxRules+1)}, fs.ErrInvalid},
		"argument":         {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: ok.Names, Action: ok.Action, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}}, fs.ErrInvalid},
		"operator":         {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: ok.Names, Action: ok.Action, Args: []specs.LinuxSeccompArg{{Op: "X"}}}}}, fs.ErrInvalid},
		"many conditions":  {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: ok.Names, Action: ok.Action, Args: make([]specs.LinuxSeccompArg, maxArgs+1)}}}, fs.ErrInvalid},
		"too many names":   {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: slices.Repeat(ok.Names, maxNames+1), Action: ok.Action}}}, fs.ErrInvalid},
		"empty name":       {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{""}, Action: ok.Action}}}, fs.ErrInvalid},
		"nameless arch":    {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{""}}, fs.ErrInvalid},
		"too long program": {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: slices.Repeat([]specs.LinuxSyscall{{Names: ok.Names, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: specs.OpNotEqual}}}}, maxRules)}, fs.ErrInvalid},
	} {
		if _, err := Compile(&c.p); !errors.Is(err, c.class) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	most := specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: slices.Repeat([]specs.LinuxSyscall{ok}, maxRules)}
	if _, err := Compile(&most); err != nil {
		t.Error(err)
	}
	if _, err := Load(make([]byte, maxProfile+1), nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("too long a text: %v", err)
	}
	if _, err := Load([]byte("{"), nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("broken text: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	text, err := json.Marshal(seccomp.DefaultProfile())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if p, err := Load(text, nil); err == nil && p != nil {
			_, _ = Compile(p)
		}
	})
}

func BenchmarkDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		p, err := Default(nil)
		if err == nil {
			_, err = Compile(p)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
