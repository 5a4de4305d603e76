package main

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/layerfs/layerfs/cas"
	"golang.org/x/sys/unix"
)

// TestPrintError names the class of an error once, however often it was wrapped.
func TestPrintError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("open x: %w", fs.ErrNotExist), "open x: file does not exist"},
		{fmt.Errorf("parse x: %w: %w", unix.EINVAL, fs.ErrInvalid), "parse x: invalid argument"},
		{fmt.Errorf("read x: %w: %w: %w", cas.ErrCorrupt, unix.EINVAL, fs.ErrInvalid), "read x: content does not match its digest: invalid argument"},
		{fmt.Errorf("a: a: %w", fs.ErrInvalid), "a: a: invalid argument"},
		{fs.ErrInvalid, "invalid argument"},
	} {
		var b strings.Builder
		printError(&b, c.err)
		if got := b.String(); got != "layerfs: "+c.want+"\n" {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
