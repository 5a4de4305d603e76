// Command render writes the documents that are generated from bench/results.json anew. It
// is run in the root of the repository, and measures nothing.
package main

import (
	"fmt"
	"os"

	"github.com/layerfs/layerfs/bench/report"
)

func main() {
	files := report.Kept(".")
	r, err := report.ReadFile(files.Results)
	if err == nil {
		err = files.Write(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}
