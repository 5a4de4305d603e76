package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/term"
)

// inputFile opens a file, or standard input for "-". It returns the size of a regular
// file in bytes, else 0.
func (a *app) inputFile(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, 0, usageError{errors.New("standard input is a terminal; give a file, or redirect")}
		}
		return io.NopCloser(a.stdin), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if !st.Mode().IsRegular() {
		return f, 0, nil
	}
	return f, st.Size(), nil
}
