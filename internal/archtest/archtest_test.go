// Package archtest holds the test of the import graph. The table of directions stands
// in docs/architecture.md, between the marks "imports begin" and "imports end", for
// people to read; the test reads the same table, so the two cannot drift apart.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/layerfs/layerfs"

// rule is one row of the table: the packages of ours that those matching name may import.
type rule struct {
	name string
	may  []string
}

// pkg is what `go list` says of one package.
type pkg struct {
	ImportPath string
	Imports    []string // of the package itself, without its tests
	Deps       []string // all the way down
}

// matches reports whether path is pattern, or below it when pattern ends in "/...".
func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

// short cuts the module off an import path of ours.
func short(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

var code = regexp.MustCompile("`([^`]+)`")

// parseRules reads the rows of the table in the text of docs/architecture.md.
func parseRules(text string) ([]rule, error) {
	_, text, ok := strings.Cut(text, "<!-- imports begin -->")
	if !ok {
		return nil, errors.New("no mark \"imports begin\"")
	}
	text, _, ok = strings.Cut(text, "<!-- imports end -->")
	if !ok {
		return nil, errors.New("no mark \"imports end\"")
	}
	var rules []rule
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		names := code.FindAllStringSubmatch(cells[1], -1)
		if len(names) == 0 {
			continue // the header
		}
		var may []string
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			may = append(may, m[1])
		}
		for _, n := range names {
			rules = append(rules, rule{n[1], may})
		}
	}
	return rules, nil
}

// ruleFor returns the most specific row for a package: the longest name that matches.
func ruleFor(rules []rule, path string) (rule, bool) {
	best, found := rule{}, false
	for _, r := range rules {
		if matches(r.name, path) && (!found || len(strings.TrimSuffix(r.name, "/...")) >= len(strings.TrimSuffix(best.name, "/..."))) {
			best, found = r, true
		}
	}
	return best, found
}

// violations lists what the graph does that the table does not allow.
func violations(rules []rule, pkgs []pkg) []string {
	var bad []string
	for _, p := range pkgs {
		name, ours := short(p.ImportPath)
		if !ours {
			continue
		}
		r, ok := ruleFor(rules, name)
		if !ok {
			bad = append(bad, name+" has no row in the table")
			continue
		}
		for _, imp := range p.Imports {
			target, ours := short(imp)
			if !ours || slices.ContainsFunc(r.may, func(m string) bool { return matches(m, target) }) {
				continue
			}
			bad = append(bad, name+" imports "+target)
		}
	}
	return bad
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list found no packages")
	}
	return pkgs
}

func readRules(t *testing.T) []rule {
	t.Helper()
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := parseRules(string(text))
	if err != nil {
		t.Fatalf("docs/architecture.md: %v", err)
	}
	return rules
}

// TestImportsPointDownwards holds every package against its row of the table.
func TestImportsPointDownwards(t *testing.T) {
	for _, v := range violations(readRules(t), list(t)) {
		t.Errorf("%s: not allowed by the table in docs/architecture.md", v)
	}
}

// TestTableIsADirection makes sure that the table itself draws no cycle: what a package
// may import must not be allowed to import it back.
func TestTableIsADirection(t *testing.T) {
	rules := readRules(t)
	if len(rules) < 10 {
		t.Fatalf("the table has %d rows", len(rules))
	}
	for _, a := range rules {
		name := strings.TrimSuffix(a.name, "/...")
		for _, m := range a.may {
			if matches(m, name) {
				continue // packages of one folder may use each other
			}
			b, ok := ruleFor(rules, strings.TrimSuffix(m, "/..."))
			if !ok {
				t.Errorf("%s may import %s, which has no row", name, m)
				continue
			}
			if slices.ContainsFunc(b.may, func(m string) bool { return matches(m, name) }) {
				t.Errorf("%s and %s may import each other", name, m)
			}
		}
	}
}

// TestNothingHeavy keeps what is slow to start out of the programs: see
// docs/decisions/0006-core-stays-light.md.
func TestNothingHeavy(t *testing.T) {
	heavy := []string{
		"google.golang.org/grpc", "google.golang.org/protobuf", "go.opentelemetry.io",
		"go.etcd.io/bbolt", "modernc.org/sqlite", "github.com/mattn/go-sqlite3",
		"github.com/containerd/containerd", "k8s.io", "testing",
	}
	for _, p := range list(t) {
		if name, ours := short(p.ImportPath); !ours || !matches("cmd/...", name) {
			continue
		}
		for _, dep := range p.Deps {
			if slices.ContainsFunc(heavy, func(h string) bool { return matches(h+"/...", dep) }) {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// TestContractsDoNoIO: the vocabulary and the contracts have no file, process or network.
func TestContractsDoNoIO(t *testing.T) {
	contracts := []string{"tree", "cas", "unionfs"}
	io := []string{"os", "os/exec", "net", "syscall", "golang.org/x/sys/unix"}
	seen := 0
	for _, p := range list(t) {
		name, ours := short(p.ImportPath)
		if !ours || !slices.Contains(contracts, name) {
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if slices.Contains(io, imp) {
				t.Errorf("%s is a contract and imports %s", name, imp)
			}
		}
	}
	if seen != len(contracts) {
		t.Errorf("found %d of %d contracts", seen, len(contracts))
	}
}

// TestViolationsAreFound shows the checker what it must refuse.
func TestViolationsAreFound(t *testing.T) {
	rules, err := parseRules("<!-- imports begin -->\n| package | may import |\n|---|---|\n" +
		"| `tree` | |\n| `cas` | `tree` |\n| `cas/...` | `cas`, `tree` |\n| `cmd/...` | `cas/...` |\n<!-- imports end -->\n")
	if err != nil {
		t.Fatal(err)
	}
	ours := func(names ...string) []string {
		for i := range names {
			names[i] = module + "/" + names[i]
		}
		return append(names, "os")
	}
	for _, c := range []struct {
		pkg     string
		imports []string
		want    []string
	}{
		{"tree", []string{"os"}, nil},
		{"cas/disk", ours("cas", "tree"), nil},
		{"cmd/layerfs", ours("cas", "cas/disk"), nil},
		{"tree", ours("cas"), []string{"tree imports cas"}},
		{"cas/disk", ours("cas/other"), []string{"cas/disk imports cas/other"}},
		{"cas", ours("cas/disk"), []string{"cas imports cas/disk"}},
		{"stray", nil, []string{"stray has no row in the table"}},
	} {
		got := violations(rules, []pkg{{ImportPath: module + "/" + c.pkg, Imports: c.imports}})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s importing %v: %q, want %q", c.pkg, c.imports, got, c.want)
		}
	}
}
