package seccomp

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	Program []unix.SockFilter // for SECCOMP_SET_MODE_FILTER
	Flags   uint              // SECCOMP_FILTER_FLAG_*
	Unknown []string          // calls and architectures of the profile that no table has, passed over
}

// maxProgram is how long the kernel lets a program be (BPF_MAXINSNS).
const maxProgram = 4096

// rule is a rule for one call: conditions that must all hold, if any, and what then.
type rule struct {
	conditions []specs.LinuxSeccompArg
	action     uint32
	place      int // in the profile
}

// call is what a profile says of a call, by the index of its name.
type call struct {
	named bool
	plain *rule  // the first without conditions
	rules []rule // the others, in the profile's order
}

// Compile makes the program of a profile. A profile that is none wraps fs.ErrInvalid, one
// that wants what is not to be had here errors.ErrUnsupported.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	f, err := compile(p)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return f, nil
}

func compile(p *specs.LinuxSeccomp) (*Filter, error) {
	if p.ListenerPath != "" || p.ListenerMetadata != "" {
		return nil, fmt.Errorf("a listener for notifications: %w", errUnsupported)
	}
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	f := &Filter{}
	if f.Flags, err = flags(p.Flags); err != nil {
		return nil, err
	}
	arches, unknown, err := archesOf(p)
	if err != nil {
		return nil, err
	}
	calls, unknownCalls, err := resolve(p)
	if err != nil {
		return nil, err
	}
	f.Unknown = append(unknown, unknownCalls...)
	if f.Program, err = assemble(arches, func(a arch) []span { return ranges(a, calls, fallback) }); err != nil {
		return nil, err
	}
	if len(f.Program) > maxProgram {
		return nil, fmt.Errorf("it takes %d instructions, at most %d: %w", len(f.Program), maxProgram, fs.ErrInvalid)
	}
	return f, nil
}

// resolve returns what the profile says of each call, and the names that are none.
func resolve(p *specs.LinuxSeccomp) ([]call, []string, error) {
	if len(p.Syscalls) > maxRules {
		return nil, nil, fmt.Errorf("%d rules, at most %d: %w", len(p.Syscalls), maxRules, fs.ErrInvalid)
	}
	calls := make([]call, len(callNames))
	var unknown []string
	for place, s := range p.Syscalls {
		act, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, nil, err
		}
		alternatives, err := conditions(s.Args)
		if err != nil {
			return nil, nil, err
		}
		if len(s.Names) > maxNames {
			return nil, nil, fmt.Errorf("rule for %d calls, at most %d: %w", len(s.Names), maxNames, fs.ErrInvalid)
		}
		plain := &rule{action: act, place: place}
		for _, name := range s.Names {
			if name == "" || len(name) > maxName {
				return nil, nil, fmt.Errorf("call of a name of %d bytes: %w", len(name), fs.ErrInvalid)
			}
			i := find(name)
			if i < 0 {
				unknown = append(unknown, name)
				continue
			}
			c := &calls[i]
			c.named = true
			if len(s.Args) > 0 {
				for _, a := range alternatives {
					c.rules = append(c.rules, rule{a, act, place})
				}
				continue
			}
			if c.plain == nil {
				c.plain = plain
			}
			if m, ok := kindOf(name); ok {
				kind := []specs.LinuxSeccompArg{{Index: 0, Value: m.kind, Op: specs.OpEqualTo}}
				whole := &calls[find(m.call)]
				whole.named = true
				whole.rules = append(whole.rules, rule{kind, act, place})
			}
		}
	}
	return calls, unknown, nil
}

// conditions checks the arguments of a rule and returns the alternatives that they stand
// for, one or more.
func conditions(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	if len(args) > maxArgs {
		return nil, fmt.Errorf("rule of %d conditions, at most %d: %w", len(args), maxArgs, fs.ErrInvalid)
	}
	twice := false
	var seen [maxArgs]bool
	for _, a := range args {
		if a.Index >= maxArgs {
			return nil, fmt.Errorf("condition on argument %d: %w", a.Index, fs.ErrInvalid)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("condition %q: %w", a.Op, fs.ErrInvalid)
		}
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var each [][]specs.LinuxSeccompArg
	for _, a := range args {
		each = append(each, []specs.LinuxSeccompArg{a})
	}
	return each, nil
}

// action returns what the kernel knows an action as.
func action(a specs.LinuxSeccompAction, number *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if number != nil {
		if a != specs.ActErrno && a != specs.ActTrace {
			return 0, fmt.Errorf("action %s with a number: %w", a, fs.ErrInvalid)
		}
		if *number > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("action %s with number %d: %w", a, *number, fs.ErrInvalid)
		}
		data = uint32(*number)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActNotify:
		return 0, fmt.Errorf("action %s: %w", a, errUnsupported)
	default:
		return 0, fmt.Errorf("action %q: %w", a, fs.ErrInvalid)
	}
}

func flags(names []specs.LinuxSeccompFlag) (uint, error) {
	var set uint
	for _, name := range names {
		switch name {
		case "SECCOMP_FILTER_FLAG_TSYNC": // the process that installs it has one thread
		case specs.LinuxSeccompFlagLog:
			set |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			set |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			return 0, fmt.Errorf("flag %s without a listener: %w", name, fs.ErrInvalid)
		default:
			return 0, fmt.Errorf("flag %q: %w", name, fs.ErrInvalid)
		}
	}
	return set, nil
}

// span is all numbers from first up to the next span's, with the same answer.
type span struct {
	first  uint32
	rules  []rule // conditions are tried in this order
	action uint32 // where none holds
}

func (s span) same(o span) bool {
	return len(s.rules) == 0 && len(o.rules) == 0 && s.action == o.action
}

// beyond is the answer to calls that are newer than all that a profile names, given its
// answer to what it does not name: programs try a new call, and use an old one if there
// is no new one; that it is forbidden would be a failure. As in runc.
func beyond(fallback uint32) uint32 {
	if fallback&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return fallback
}

// ranges returns the spans of an architecture, which follow each other without gaps.
func ranges(a arch, calls []call, fallback uint32) []span {
	out := make([]span, 1, len(callNames))
	out[0] = span{action: fallback}
	add := func(s span) {
		last := &out[len(out)-1]
		switch {
		case last.first == s.first:
			*last = s
			if len(out) > 1 && out[len(out)-2].same(s) {
				out = out[:len(out)-1]
			}
		case !last.same(s):
			out = append(out, s)
		}
	}
	numbers, end := callsByNumber[a], -1
	for i := 0; i < len(numbers); {
		n := callNumbers[a][numbers[i]]
		c := calls[numbers[i]]
		for i++; i < len(numbers) && callNumbers[a][numbers[i]] == n; i++ {
			c = both(c, calls[numbers[i]]) // two names of one call
		}
		if !c.named {
			continue
		}
		s := span{first: uint32(n), rules: c.rules, action: fallback}
		if c.plain != nil { // it decides alone
			s.rules, s.action = nil, c.plain.action
		}
		add(s)
		end = int(n) + 1
		add(span{first: uint32(end), action: fallback})
	}
	if end >= 0 {
		add(span{first: uint32(end), action: beyond(fallback)})
	}
	return out
}

// both is what is said of a call under two names.
func both(a, b call) call {
	c := call{named: a.named || b.named, plain: a.plain}
	if c.plain == nil || b.plain != nil && b.plain.place < c.plain.place {
		c.plain = b.plain
	}
	c.rules = append(append(c.rules, a.rules...), b.rules...)
	slices.SortStableFunc(c.rules, func(x, y rule) int { return x.place - y.place })
	return c
}
