package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/layerfs/layerfs/cas"
	"github.com/layerfs/layerfs/runtime/container"
	"github.com/layerfs/layerfs/runtime/volume"
	"github.com/layerfs/layerfs/snapshot"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Exit codes that commands give by themselves.
const (
	codeDamaged     = 5
	codeInUse       = 6
	codeInterrupted = 130
)

// exitError carries an exit code of its own: of a process that was run, or of a check
// that found faults. err may be nil when there is nothing to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError marks a wrong call of a command.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitClass is a class of errors with the exit code that it gives.
type exitClass struct {
	code  int
	means string
	is    func(error) bool
}

// exitCodes maps classes of errors to exit codes, first match wins.
var exitCodes = []exitClass{
	{codeInterrupted, "interrupted", func(err error) bool { return errors.Is(err, context.Canceled) }},
	{2, "wrong usage", func(err error) bool { var u usageError; return errors.As(err, &u) }},
	{codeDamaged, "content does not match its digest, or the store is damaged", is(cas.ErrCorrupt)},
	{codeInUse, "in use, or others depend on it", func(err error) bool {
		return errors.Is(err, snapshot.ErrInUse) || errors.Is(err, snapshot.ErrHasChildren) ||
			errors.Is(err, container.ErrActive) || errors.Is(err, volume.ErrInUse) || errors.Is(err, unix.EBUSY)
	}},
	{3, "not found", is(fs.ErrNotExist)},
	{4, "exists already", is(fs.ErrExist)},
	{7, "not permitted", is(fs.ErrPermission)},
	{8, "not supported here: the message names what is missing", is(errors.ErrUnsupported)},
	{9, "no space or quota left", func(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }},
	{10, "invalid input", is(fs.ErrInvalid)},
}

func is(class error) func(error) bool {
	return func(err error) bool { return errors.Is(err, class) }
}

func exitCode(err error) int {
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	for _, c := range exitCodes {
		if c.is(err) {
			return c.code
		}
	}
	return 1
}

func newExitCodesCmd(*app) *cobra.Command {
	var b strings.Builder
	b.WriteString("Exit codes of layerfs:\n\n   0  success\n   1  any other error\n")
	for _, c := range slices.SortedFunc(slices.Values(exitCodes), func(x, y exitClass) int { return x.code - y.code }) {
		b.WriteString(strings.Repeat(" ", 4-len(itoa(c.code))) + itoa(c.code) + "  " + c.means + "\n")
	}
	b.WriteString("\n`layerfs run` ends with the code of the process: 128 plus the signal's number when\n" +
		"a signal ended it, 127 when the command was not found, 126 when it could not be\n" +
		"executed, 125 when layerfs failed before it.\n")
	return &cobra.Command{Use: "exit-codes", Short: "Explain the exit codes", Long: b.String()}
}
