package seccomp

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Where things are in struct seccomp_data (include/uapi/linux/seccomp.h).
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
	argSize  = 8
)

// longest is the farthest that a conditional jump goes.
const longest = 255

func statement(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(code uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | code, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

func load(at uint32) unix.SockFilter {
	return statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, at)
}

func answer(action uint32) unix.SockFilter { return statement(unix.BPF_RET|unix.BPF_K, action) }

// builder writes a program from its end to its start, since what a jump goes over is known
// by then.
type builder struct{ reversed []unix.SockFilter }

func (b *builder) prepend(program ...unix.SockFilter) {
	for i := len(program) - 1; i >= 0; i-- {
		b.reversed = append(b.reversed, program[i])
	}
}

// far prepends a jump over n instructions where a comparison holds, however many they are.
func (b *builder) far(code uint16, k uint32, n int) {
	if n <= longest {
		b.prepend(jump(code, k, n, 0))
		return
	}
	b.prepend(jump(code, k, 0, 1), statement(unix.BPF_JMP|unix.BPF_JA, uint32(n)))
}

// tree prepends the program that finds the span of the number that is loaded.
func (b *builder) tree(spans []span) error {
	if len(spans) == 1 {
		if len(spans[0].rules) == 0 {
			b.prepend(answer(spans[0].action))
			return nil
		}
		program, err := leaf(spans[0])
		b.prepend(program...)
		return err
	}
	middle := len(spans) / 2
	if err := b.tree(spans[middle:]); err != nil {
		return err
	}
	end := len(b.reversed)
	if err := b.tree(spans[:middle]); err != nil {
		return err
	}
	b.far(unix.BPF_JGE, spans[middle].first, len(b.reversed)-end)
	return nil
}

// leaf returns the program for a number that is found: the rules in turn, each of which
// falls through to the next where a condition does not hold.
func leaf(s span) ([]unix.SockFilter, error) {
	var out []unix.SockFilter
	for i := 0; i < len(s.rules); i++ {
		r := s.rules[i]
		if n := listed(s.rules[i:]); n > 1 {
			if set := oneOf(s.rules[i : i+n]); len(set) <= longest {
				out = append(out, set...)
				i += n - 1
				continue
			}
		}
		body := []unix.SockFilter{answer(r.action)}
		for i := len(r.conditions) - 1; i >= 0; i-- {
			body = append(check(r.conditions[i], len(body)), body...)
		}
		if len(body) > longest {
			return nil, fmt.Errorf("a rule of %d conditions is too long: %w", len(r.conditions), fs.ErrInvalid)
		}
		out = append(out, body...)
	}
	return append(out, answer(s.action)), nil
}

// listed counts the rules at the start that all ask whether the same argument has a value,
// with the same answer and the same high half.
func listed(rules []rule) int {
	for i, r := range rules {
		if len(r.conditions) != 1 || r.conditions[0].Op != specs.OpEqualTo {
			return i
		}
		a, first := r.conditions[0], rules[0].conditions[0]
		if a.Index != first.Index || a.Value>>32 != first.Value>>32 || r.action != rules[0].action {
			return i
		}
	}
	return len(rules)
}

// oneOf returns the program for rules that are listed: comparisons with ranges of values,
// after which it falls through if none fits.
func oneOf(rules []rule) []unix.SockFilter {
	values := make([]uint32, 0, len(rules))
	for _, r := range rules {
		values = append(values, uint32(r.conditions[0].Value))
	}
	slices.Sort(values)
	values = slices.Compact(values)
	first := rules[0].conditions[0]
	low, high := halves(first.Index)
	// From the end to the start, since jumps go forward: to the answer, or over it.
	out := []unix.SockFilter{statement(unix.BPF_JMP|unix.BPF_JA, 1), answer(rules[0].action)}
	for end := len(values); end > 0; {
		start := end - 1
		for start > 0 && values[start-1]+1 == values[start] {
			start--
		}
		toAnswer := len(out) - 1
		var test []unix.SockFilter
		if end-start == 1 {
			test = []unix.SockFilter{jump(unix.BPF_JEQ, values[start], toAnswer, 0)}
		} else {
			test = []unix.SockFilter{jump(unix.BPF_JGE, values[start], 0, 1), jump(unix.BPF_JGT, values[end-1], 0, toAnswer)}
		}
		out = append(test, out...)
		if len(out) > longest {
			break // too far to jump; the caller sees it
		}
		end = start
	}
	return append([]unix.SockFilter{load(high), jump(unix.BPF_JEQ, uint32(first.Value>>32), 0, len(out)+1), load(low)}, out...)
}

// check returns the instructions that fall through where a condition holds, and else jump
// over what follows: n instructions. Arguments have 64 bits, the machine has 32, so the
// high half is compared first.
func check(a specs.LinuxSeccompArg, n int) []unix.SockFilter {
	low, high := halves(a.Index)
	loHalf, hiHalf := uint32(a.Value), uint32(a.Value>>32)
	switch a.Op {
	case specs.OpEqualTo:
		return []unix.SockFilter{
			load(high), jump(unix.BPF_JEQ, hiHalf, 0, n+2),
			load(low), jump(unix.BPF_JEQ, loHalf, 0, n),
		}
	case specs.OpNotEqual:
		return []unix.SockFilter{
			load(high), jump(unix.BPF_JEQ, hiHalf, 0, 2),
			load(low), jump(unix.BPF_JEQ, loHalf, n, 0),
		}
	case specs.OpMaskedEqual: // value is the mask, and valueTwo what must be left
		return []unix.SockFilter{
			load(high), statement(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, hiHalf),
			jump(unix.BPF_JEQ, uint32(a.ValueTwo>>32), 0, n+3),
			load(low), statement(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, loHalf),
			jump(unix.BPF_JEQ, uint32(a.ValueTwo), 0, n),
		}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		code := uint16(unix.BPF_JGT)
		if a.Op == specs.OpGreaterEqual {
			code = unix.BPF_JGE
		}
		return []unix.SockFilter{
			load(high), jump(unix.BPF_JGT, hiHalf, 3, 0), jump(unix.BPF_JEQ, hiHalf, 0, n+2),
			load(low), jump(code, loHalf, 0, n),
		}
	default: // less than, and less or equal: where the opposite does not hold
		code := uint16(unix.BPF_JGE)
		if a.Op == specs.OpLessEqual {
			code = unix.BPF_JGT
		}
		return []unix.SockFilter{
			load(high), jump(unix.BPF_JGT, hiHalf, n+3, 0), jump(unix.BPF_JEQ, hiHalf, 0, 2),
			load(low), jump(code, loHalf, n, 0),
		}
	}
}

// halves are the places of an argument's halves, in the byte order of the machine.
func halves(index uint) (low, high uint32) {
	at := uint32(atArgs + argSize*index)
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return at, at + argSize/2
	}
	return at + argSize/2, at
}

// assemble returns the program of all architectures, the native one first.
func assemble(arches []arch, spans func(arch) []span) ([]unix.SockFilter, error) {
	const usual = 1024
	b := &builder{reversed: make([]unix.SockFilter, 0, usual)}
	b.prepend(answer(unix.SECCOMP_RET_KILL_PROCESS))
	for _, a := range slices.Backward(arches) {
		if a == archX32 {
			continue // beside amd64, below
		}
		end := len(b.reversed)
		if a == archAMD64 {
			if slices.Contains(arches, archX32) {
				if err := b.tree(spans(archX32)); err != nil {
					return nil, err
				}
			} else {
				b.prepend(answer(unix.SECCOMP_RET_KILL_PROCESS))
			}
		}
		middle := len(b.reversed)
		if err := b.tree(spans(a)); err != nil {
			return nil, err
		}
		if a == archAMD64 {
			b.far(unix.BPF_JGE, x32Bit, len(b.reversed)-middle)
		}
		b.prepend(load(atNumber))
		// Over all this where it is another architecture.
		if n := len(b.reversed) - end; n <= longest {
			b.prepend(jump(unix.BPF_JEQ, archInfos[a].audit, 0, n))
		} else {
			b.prepend(jump(unix.BPF_JEQ, archInfos[a].audit, 1, 0), statement(unix.BPF_JMP|unix.BPF_JA, uint32(n)))
		}
	}
	b.prepend(load(atArch))
	slices.Reverse(b.reversed)
	return b.reversed, nil
}

// Bytes is the memory of the program, as struct sock_fprog points to it.
func (f *Filter) Bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&f.Program[0])), len(f.Program)*int(unsafe.Sizeof(f.Program[0])))
}
