package tree

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// simulation extracts layers one entry after the other onto a whole file system,
// kept as a flat map, as a tool that unpacks an image does. It shares no code with
// Builder and Merge. The few things that those normalise, because a layer tree
// cannot tell the order of entries, are recognised and reported by ambiguous.
type simulation struct {
	files map[string]*simFile // by path, "" for the root
	below map[string]*simFile // before the layer at work

	removed map[string]bool // directories of which the layer has hidden what was below
	gone    map[string]bool // what the layer has removed altogether, before or after adding to it

	followed []string          // lower symbolic links gone through, and where they led
	direct   map[string]string // where entries went, and by what name
	through  map[string]string // the same through a lower symbolic link
	doubtful bool
}

type simFile struct {
	inode    *simInode
	mine     bool   // touched by the layer at work
	explicit bool   // by an entry for this very path
	waits    string // the path that a link without a target yet is to look at, at the end
}

type simInode struct {
	kind    byte // d, f, s
	mode    uint16
	content string
}

var errSim = errors.New("refused")

func newSimulation() *simulation {
	return &simulation{files: map[string]*simFile{"": {inode: &simInode{kind: 'd', mode: 0o755}}}}
}

func (s *simulation) layer(entries []string) error {
	s.below = map[string]*simFile{}
	for p, f := range s.files {
		c := simFile{inode: f.inode}
		s.files[p] = &c
		s.below[p] = f
	}
	s.removed, s.direct, s.through = map[string]bool{}, map[string]string{}, map[string]string{}
	s.gone, s.followed, s.doubtful = map[string]bool{}, nil, false
	for _, e := range entries {
		f := append(strings.Fields(e), "")
		if err := s.entry(f[0], f[1], f[2]); err != nil {
			// What is refused because of the order of entries may be fine in another.
			s.doubtful = s.doubtful || len(s.followed) > 0
			return err
		}
	}
	if err := s.links(); err != nil {
		return err
	}
	// Where nothing from below shows, directories that only whiteouts implied go.
	for _, p := range slices.Sorted(maps.Keys(s.files)) {
		for q := range s.removed {
			f := s.files[p]
			if f != nil && under(p, q) && (p != q || s.gone[p]) && !f.explicit && !s.explicitBelow(p) {
				s.remove(p)
			}
		}
	}
	return nil
}

func under(p, dir string) bool {
	return p == dir || dir == "" || strings.HasPrefix(p, dir+"/")
}

func (s *simulation) explicitBelow(dir string) bool {
	for p, f := range s.files {
		if p != dir && under(p, dir) && f.explicit {
			return true
		}
	}
	return false
}

func (s *simulation) remove(p string) {
	maps.DeleteFunc(s.files, func(q string, _ *simFile) bool { return under(q, p) })
}

// hide takes away what the layers below have under p, and p itself with self.
func (s *simulation) hide(p string, self bool) {
	for q, f := range s.files {
		if !under(q, p) || f.explicit || q == p && !self {
			continue
		}
		if f.inode.kind == 'd' && s.explicitBelow(q) {
			f.inode, f.mine = &simInode{kind: 'd', mode: 0o755}, true
		} else {
			delete(s.files, q)
		}
	}
	s.removed[p] = true
}

type simSegment struct {
	parts []string
	lower bool
}

// dir resolves p as a directory, making what is missing if create is set. It returns
// false where it cannot be found.
func (s *simulation) dir(p string, create bool) (at string, lower, ok bool, err error) {
	todo := []simSegment{{parts: strings.Split(p, "/")}}
	for hops := 0; len(todo) > 0; {
		seg := &todo[len(todo)-1]
		if len(seg.parts) == 0 {
			todo = todo[:len(todo)-1]
			continue
		}
		name, strict := seg.parts[0], seg.lower
		seg.parts = seg.parts[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(0, strings.LastIndexByte(at, '/'))]
			continue
		}
		next := strings.TrimPrefix(at+"/"+name, "/")
		f := s.files[next]
		if f != nil && (f.waits != "" || s.through[next] != "") {
			s.doubtful = true // a layer by itself does not know what lies here
		}
		if f != nil && f.inode != nil && f.inode.kind == 's' {
			if hops++; hops > MaxHops {
				s.doubtful = s.doubtful || lower
				return "", lower, false, errSim
			}
			lower = lower || !f.explicit
			if strict || !f.explicit {
				s.followed = append(s.followed, next)
			}
			if strings.HasPrefix(f.inode.content, "/") {
				at = ""
			}
			todo = append(todo, simSegment{strings.Split(f.inode.content, "/"), strict || !f.explicit})
			continue
		}
		if f == nil || f.inode == nil || f.inode.kind != 'd' {
			if f != nil && f.explicit || strict {
				s.doubtful = s.doubtful || strict
				if !create && !strict {
					return "", lower, false, nil
				}
				return "", lower, false, errSim
			}
			if !create {
				return "", lower, false, nil
			}
			s.files[next] = &simFile{inode: &simInode{kind: 'd', mode: 0o755}, mine: true}
		} else if create {
			f.mine = true
		}
		at = next
		if strict {
			s.followed = append(s.followed, next)
		}
	}
	return at, lower, true, nil
}

// note records that the entry called name went to p.
func (s *simulation) note(p, name string, lower bool) {
	if !lower {
		s.direct[p] = name
		return
	}
	for q, other := range s.through {
		// Two ways to one place: the order of entries decides.
		if (under(p, q) || under(q, p)) && !under(name, other) && !under(other, name) {
			s.doubtful = true
		}
	}
	s.through[p] = name
}

func (s *simulation) entry(verb, name, arg string) error {
	if verb == "o" {
		at, lower, _, err := s.dir(name, true)
		if err != nil {
			return err
		}
		s.note(at, name, lower)
		s.hide(at, false)
		return nil
	}
	i := strings.LastIndexByte(name, '/')
	var target *simFile
	var resolved string
	if verb == "l" {
		j := strings.LastIndexByte(arg, '/')
		tdir, lower, ok, err := s.dir(arg[:max(j, 0)], false)
		if err != nil {
			s.doubtful = true
		}
		if ok {
			resolved = strings.TrimPrefix(tdir+"/"+arg[j+1:], "/")
			target = s.files[resolved]
		}
		// Whether a link's target is looked up before or after the layer's other
		// changes matters only where symbolic links are on the way.
		if lower || !ok || resolved != arg && (target == nil || !target.explicit) {
			s.doubtful = true
		}
	}
	at, lower, _, err := s.dir(name[:max(i, 0)], true)
	if err != nil {
		return err
	}
	p := strings.TrimPrefix(at+"/"+name[i+1:], "/")
	old := s.files[p]
	s.note(p, name, lower)
	switch verb {
	case "w":
		s.hide(p, true)
		s.gone[p] = true
	case "d":
		if old == nil || old.inode == nil || old.inode.kind != 'd' {
			if old != nil && old.explicit {
				s.removed[p] = true
			}
			s.files[p] = &simFile{}
		}
		f := s.files[p]
		f.inode, f.mine, f.explicit, f.waits = &simInode{kind: 'd', mode: 0o700}, true, true, ""
	case "f", "s":
		s.remove(p)
		s.removed[p] = true
		s.files[p] = &simFile{inode: &simInode{kind: verb[0], content: arg}, mine: true, explicit: true}
	case "l":
		return s.link(p, resolved, target)
	}
	return nil
}

func (s *simulation) link(p, to string, target *simFile) error {
	if target != nil && target.explicit {
		switch {
		case target == s.files[p] && (target.inode == nil || target.inode.kind != 'd'):
			return nil
		case target.inode == nil:
			to = target.waits
		case target.inode.kind == 'd', under(to, p):
			return errSim
		default:
			s.remove(p)
			s.removed[p] = true
			s.files[p] = &simFile{inode: target.inode, mine: true, explicit: true}
			return nil
		}
	}
	f := &simFile{mine: true, explicit: true, waits: to}
	if below := s.below[to]; below != nil && below.inode.kind != 'd' {
		f.inode = below.inode
	}
	s.remove(p)
	s.removed[p] = true
	s.files[p] = f
	return nil
}

// links gives the links that wait their inodes.
func (s *simulation) links() error {
	for _, f := range s.files {
		// A target behind symbolic links is looked up as they were before the layer,
		// or are at its end.
		for _, files := range []map[string]*simFile{s.files, s.below} {
			for p, l := range files {
				if f.inode == nil && under(f.waits, p) && l.inode != nil && l.inode.kind == 's' {
					s.doubtful = true
				}
			}
		}
	}
	for range s.files {
		for _, f := range s.files {
			if f.inode != nil {
				continue
			}
			if t := s.files[f.waits]; t == nil || t.inode != nil && t.inode.kind == 'd' {
				return errSim
			} else if t.inode != nil {
				f.inode = t.inode
			}
		}
	}
	for _, f := range s.files {
		if f.inode == nil {
			return errSim
		}
	}
	return nil
}

// ambiguous reports whether the layer changes what its own entries went through, so
// that their order matters, which a layer tree does not keep.
func (s *simulation) ambiguous() bool {
	if s.doubtful {
		return true
	}
	for q := range s.direct {
		for _, f := range s.followed {
			if under(f, q) {
				return true
			}
		}
	}
	for q := range s.through {
		for _, f := range s.followed {
			if under(f, q) {
				return true
			}
		}
		for p := range s.direct {
			if under(p, q) || under(q, p) {
				return true
			}
		}
	}
	return false
}

func (s *simulation) brief() string {
	var b strings.Builder
	first := map[*simInode]string{}
	paths := slices.SortedFunc(maps.Keys(s.files), func(x, y string) int { return ComparePath(Path(x), Path(y)) })
	for _, p := range paths {
		ino := s.files[p].inode
		switch {
		case ino.kind == 'd' && p == "" && ino.mode == 0o755:
			continue
		case ino.kind == 'd' && ino.mode == 0o755:
			fmt.Fprintf(&b, "/%s dir implied\n", p)
		case ino.kind == 'd':
			fmt.Fprintf(&b, "/%s dir\n", p)
		case first[ino] != "":
			fmt.Fprintf(&b, "/%s link /%s\n", p, first[ino])
		case ino.kind == 'f':
			fmt.Fprintf(&b, "/%s file %s\n", p, ino.content)
		default:
			fmt.Fprintf(&b, "/%s symlink %s\n", p, ino.content)
		}
		if ino.kind != 'd' && first[ino] == "" {
			first[ino] = p
		}
	}
	return b.String()
}

func randomPath(r *rand.Rand) string {
	parts := make([]string, 1+r.IntN(3))
	for i := range parts {
		parts[i] = string(rune('a' + r.IntN(5)))
	}
	return strings.Join(parts, "/")
}

// randomLayer makes entries. The paths of files so far are in files, so that most
// hard links have a target. There are as many symbolic links as links says, in 20.
func randomLayer(r *rand.Rand, links int, files *[]string) []string {
	entries := make([]string, 1+r.IntN(6))
	for i := range entries {
		p := randomPath(r)
		switch k := r.IntN(20); {
		case k < links:
			entries[i] = "s " + p + " " + []string{"", "../", "/", "./", "../../"}[r.IntN(5)] + randomPath(r)
		case k < 9:
			entries[i] = fmt.Sprintf("f %s %d", p, r.IntN(100))
			*files = append(*files, p)
		case k < 13:
			entries[i] = "d " + p
		case k < 16:
			entries[i] = "w " + p
		case k < 18:
			entries[i] = "o " + p
		default:
			target := randomPath(r)
			if r.IntN(8) > 0 && len(*files) > 0 {
				target = (*files)[r.IntN(len(*files))]
			}
			entries[i] = "l " + p + " " + target
		}
	}
	return entries
}

// TestAgainstSimulation compares Builder and Merge with the simulation over random
// stacks of layers.
func TestAgainstSimulation(t *testing.T) {
	rounds := 20000
	if testing.Short() {
		rounds = 2000
	}
	var compared, refused, followed, skipped int
	for round := range rounds {
		r := rand.New(rand.NewPCG(7, uint64(round)))
		sim := newSimulation()
		var base *Node
		var history, files []string
		for range 1 + r.IntN(5) {
			entries := randomLayer(r, round%4, &files)
			history = append(history, strings.Join(entries, "\n"))
			simErr := sim.layer(entries)
			if sim.ambiguous() {
				skipped++
				break
			}
			next, err := func() (*Node, error) {
				b := NewBuilder()
				b.small = round % 3 * 2 // so that small directories are indexed too
				if err := script(b, strings.Join(entries, "\n")); err != nil {
					return nil, err
				}
				layer, err := b.Layer()
				if err != nil {
					t.Fatal(err)
				}
				if err := CheckLayer(layer); err != nil {
					t.Fatalf("round %d: malformed layer: %v", round, err)
				}
				return Merge(base, layer)
			}()
			if (err != nil) != (simErr != nil) {
				t.Fatalf("round %d: error %v, simulation %v, after\n%s", round, err, simErr, strings.Join(history, "\n--\n"))
			}
			if err != nil {
				refused++
				break
			}
			if err := CheckTree(next); err != nil {
				t.Fatalf("round %d: malformed tree: %v", round, err)
			}
			if got, want := brief(next), sim.brief(); got != want {
				t.Fatalf("round %d: tree is\n%ssimulation has\n%safter\n%s", round, got, want, strings.Join(history, "\n--\n"))
			}
			checkDiff(t, base, next)
			compared++
			if len(sim.followed) > 0 {
				followed++
			}
			base = next
		}
	}
	t.Logf("%d layers compared, %d of them through lower symbolic links, %d refused by both, %d skipped", compared, followed, refused, skipped)
	if compared < rounds || followed < rounds/300 || refused < rounds/100 || skipped > rounds/2 {
		t.Error("too few layers say anything")
	}
}

// checkDiff compares Diff with a diff of flat maps.
func checkDiff(t *testing.T, old, new *Node) {
	t.Helper()
	flat := func(root *Node) map[Path]*Inode {
		m := map[Path]*Inode{}
		if root != nil {
			if err := Walk(root, func(p Path, n *Node) error { m[p] = n.Inode; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	a, b := flat(old), flat(new)
	isDir := func(i *Inode) bool { return i != nil && i.Type == Directory }
	var want []Change
	for p, ino := range b {
		if a[p] == nil {
			want = append(want, Change{Add, p, nil, ino})
		} else if !a[p].Equal(ino) {
			want = append(want, Change{Modify, p, a[p], ino})
		}
	}
	for p, ino := range a {
		dir, _ := p.Split()
		if b[p] == nil && (p == "" || isDir(b[dir])) {
			want = append(want, Change{Delete, p, ino, nil})
		}
	}
	slices.SortFunc(want, func(x, y Change) int { return ComparePath(x.Path, y.Path) })
	if got := slices.Collect(Diff(old, new)); !slices.Equal(got, want) {
		t.Fatalf("diff is %v, want %v", got, want)
	}
}
