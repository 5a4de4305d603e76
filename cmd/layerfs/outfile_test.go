package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOutFile: a file is there whole or not at all.
func TestOutFile(t *testing.T) {
	a := &app{}
	name := filepath.Join(t.TempDir(), "out.tar")
	write := func(outcome error) error {
		out, err := a.outputFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.WriteString(strings.Repeat("x", 3<<20)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); err == nil {
			t.Error("the file is there before it is whole")
		}
		return out.finish(outcome)
	}
	failed := errors.New("failed")
	if err := write(failed); !errors.Is(err, failed) {
		t.Errorf("outcome %v, want that of the writing", err)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) != 0 {
		t.Errorf("after a failure the directory has %v, %v", left, err)
	}
	if err := write(nil); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(name)
	if err != nil || st.Size() != 3<<20 {
		t.Errorf("%v, %v, want 3 MiB", st, err)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) != 1 {
		t.Errorf("the directory has %v, %v, want the file alone", left, err)
	}
}
