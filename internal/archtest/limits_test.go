package archtest

import (
	"flag"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/limits.md anew from the source")

const limitsFile = "../../docs/limits.md"

// TestLimitsAreDocumented compares the table in docs/limits.md with the constants named
// Max… or max… of all packages outside internal/, their values and their comments.
func TestLimitsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(limitsFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), "<!-- limits begin -->\n")
	_, tail, ok2 := strings.Cut(rest, "<!-- limits end -->")
	if !ok1 || !ok2 {
		t.Fatal("docs/limits.md has lost its marks")
	}
	want := head + "<!-- limits begin -->\n" + limitsTable(t) + "<!-- limits end -->" + tail
	if *update {
		if err := os.WriteFile(limitsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) == want {
		return
	}
	got := strings.Split(string(text), "\n")
	for line := range strings.SplitSeq(want, "\n") {
		if !slices.Contains(got, line) {
			t.Errorf("docs/limits.md lacks: %s", line)
		}
	}
	t.Error("docs/limits.md differs from the source: go test ./internal/archtest -run Limits -update")
}

var limitName = regexp.MustCompile(`^[Mm]ax[A-Z]`)

func limitsTable(t *testing.T) string {
	t.Helper()
	loader := &constLoader{fset: token.NewFileSet(), packages: map[string]*types.Package{}, files: map[string][]*ast.File{}}
	var b strings.Builder
	b.WriteString("| constant | value | what it bounds |\n|---|---:|---|\n")
	rows := 0
	for _, p := range list(t) {
		name, ours := short(p.ImportPath)
		if !ours || strings.HasPrefix(name, "internal/") || strings.HasPrefix(name, "cmd/") {
			continue
		}
		pkg, err := loader.Import(p.ImportPath)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range limitSpecs(loader.files[p.ImportPath]) {
			for _, ident := range spec.Names {
				c, ok := pkg.Scope().Lookup(ident.Name).(*types.Const)
				if !ok || !limitName.MatchString(ident.Name) || c.Val().Kind() != constant.Int {
					continue
				}
				text := meaning(ident.Name, spec)
				if text == "" && !ident.IsExported() {
					continue // a number of the code's own
				}
				rows++
				fmt.Fprintf(&b, "| `%s.%s` | %s | %s |\n", name, ident.Name, grouped(c.Val().ExactString()), text)
			}
		}
	}
	if rows < 20 {
		t.Fatalf("found %d limits", rows)
	}
	return b.String()
}

// limitSpecs returns the constant declarations of a package in the order of its files.
func limitSpecs(files []*ast.File) []*ast.ValueSpec {
	var specs []*ast.ValueSpec
	for _, f := range files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v, ok := s.(*ast.ValueSpec)
				if !ok {
					continue
				}
				if v.Doc == nil && !g.Lparen.IsValid() {
					v.Doc = g.Doc
				}
				specs = append(specs, v)
			}
		}
	}
	return specs
}

// meaning is the comment of a constant without its name.
func meaning(name string, spec *ast.ValueSpec) string {
	text := spec.Doc.Text()
	if text == "" {
		text = spec.Comment.Text()
	}
	text = strings.Join(strings.Fields(text), " ")
	for _, begin := range []string{" is the ", " is ", " bounds ", " limits ", " "} {
		text = strings.TrimPrefix(text, name+begin)
	}
	return strings.ReplaceAll(strings.TrimSuffix(text, "."), "|", "\\|")
}

// grouped puts a comma between groups of three digits.
func grouped(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// constLoader type-checks packages of ours as far as the values of constants need it:
// everybody else's packages are empty, and errors that follow from this are ignored.
type constLoader struct {
	fset     *token.FileSet
	packages map[string]*types.Package
	files    map[string][]*ast.File
}

// Import implements types.Importer.
func (l *constLoader) Import(path string) (*types.Package, error) {
	if p, ok := l.packages[path]; ok {
		return p, nil
	}
	dir, ours := short(path)
	if !ours {
		p := types.NewPackage(path, filepath.Base(path))
		p.MarkComplete()
		l.packages[path] = p
		return p, nil
	}
	names, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(l.fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		l.files[path] = append(l.files[path], f)
	}
	config := types.Config{Importer: l, IgnoreFuncBodies: true, Error: func(error) {}}
	p, _ := config.Check(path, l.fset, l.files[path], nil) // errors are expected, see above
	l.packages[path] = p
	return p, nil
}
