package main

import (
	"strings"
	"testing"
)

const stream = `{"Action":"output","Package":"m/layerfs/layerfs/a","Test":"TestX","Output":"=== RUN TestX\n"}
{"Action":"pass","Package":"m/layerfs/layerfs/a","Test":"TestX"}
{"Action":"output","Package":"m/layerfs/layerfs/a","Test":"TestS","Output":"    a_test.go:3: needs root: not root\n"}
{"Action":"skip","Package":"m/layerfs/layerfs/a","Test":"TestS"}
{"Action":"pass","Package":"m/layerfs/layerfs/a","Elapsed":1.5}
`

func TestSummaryListsSkipsAndCounts(t *testing.T) {
	var out strings.Builder
	if err := run("root", "", strings.NewReader(stream), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"skipped (root): needs root: not root\n    a.TestS\n", "tests: 1 passed, 0 failed, 1 skipped\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, &out)
		}
	}
}

func TestFailuresAreReported(t *testing.T) {
	for name, in := range map[string]string{
		"test fails": `{"Action":"output","Package":"p","Test":"T","Output":"boom\n"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"fail","Package":"p"}
`,
		"package panics": `{"Action":"output","Package":"p","Output":"boom\n"}
{"Action":"fail","Package":"p"}
`,
		"build breaks": `{"Action":"build-output","ImportPath":"p","Output":"boom\n"}
{"Action":"build-fail","ImportPath":"p"}
`,
	} {
		var out strings.Builder
		if err := run("root", "", strings.NewReader(in), &out); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !strings.Contains(out.String(), "boom") || !strings.Contains(out.String(), "tests: 0 passed, 1 failed, 0 skipped\n") {
			t.Errorf("%s: %s", name, &out)
		}
	}
	if err := run("root", "", strings.NewReader(""), new(strings.Builder)); err == nil {
		t.Error("an empty run passed")
	}
}

func TestLanesAddUp(t *testing.T) {
	dir := t.TempDir()
	for _, lane := range []string{"root", "rootless"} {
		if err := run(lane, dir, strings.NewReader(stream), new(strings.Builder)); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := run("", dir, nil, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "tests: 2 passed, 0 failed, 2 skipped\n") {
		t.Errorf("%s", &out)
	}
}
