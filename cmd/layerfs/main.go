// Command layerfs stores container image layers, mounts any stack of them, records
// what was changed as a new layer, and runs processes on the result.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/layerfs/layerfs/internal/userns"
	"github.com/layerfs/layerfs/runtime/container/bundle"
	"github.com/layerfs/layerfs/unionfs/fuse"
	"github.com/layerfs/layerfs/unionfs/fuse/treefs"
)

// version is set by the linker, see the Makefile.
var version = "devel"

func main() { os.Exit(run()) }

func run() int {
	if served, err := serve(os.Args); served {
		if err != nil {
			printError(os.Stderr, err)
			return exitCode(err)
		}
		return 0
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case monitorCommand:
			return runMonitor(os.Args[2:])
		case bundle.InitCommand:
			return runInit(os.Args[2:])
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	app := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, args: os.Args, cancel: cancel}
	cmd := newRootCmd(app, ociArgs(os.Args))
	err := cmd.ExecuteContext(ctx)
	if cerr := app.close(); err == nil {
		err = cerr
	}
	if err == nil {
		return 0
	}
	printError(app.stderr, err)
	return exitCode(err)
}

// serve does the work of this program's processes that no user starts, and reports
// whether this is one.
func serve(args []string) (bool, error) {
	switch {
	case len(args) == 3 && args[1] == keeperCommand:
		return true, userns.Keep(args[2])
	case len(args) > 1 && args[1] == treefs.Command:
		return true, treefs.Serve()
	case len(args) > 1 && args[1] == fuse.ServerArgs()[0]:
		return true, fuse.Serve(os.Stderr)
	default:
		return false, nil
	}
}

// printError prints each of the errors that are joined in err once, in one line or
// with what explains it below.
func printError(w io.Writer, err error) {
	var exit *exitError
	if errors.As(err, &exit) && exit.err == nil {
		return
	}
	if exitCode(err) == codeInterrupted {
		fmt.Fprintln(w, "layerfs: interrupted")
		return
	}
	seen := map[string]bool{}
	for _, e := range split(err) {
		if text := once(e.Error()); !seen[text] {
			seen[text] = true
			fmt.Fprintf(w, "layerfs: %s\n", text)
		}
	}
}

// once cuts the end of an error that names its class twice, because something below is of
// the same class.
func once(text string) string {
	for {
		i := strings.LastIndex(text, ": ")
		if i < 0 || !strings.HasSuffix(text[:i], text[i:]) {
			return text
		}
		text = text[:i]
	}
}

// split takes apart what errors.Join joined.
func split(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error }) // what a wrapped join says belongs together
	if !ok {
		return []error{err}
	}
	var texts []string
	for _, e := range joined.Unwrap() {
		texts = append(texts, e.Error())
	}
	if strings.Join(texts, "\n") != err.Error() {
		return []error{err} // fmt.Errorf with several %w
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, split(e)...)
	}
	return out
}
