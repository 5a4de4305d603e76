// Command same compares two directory trees in everything that a program can see of them,
// and fails when they differ:
//
//	same [-ignore PATTERN:FIELD,…] GOT WANT
//	same -archives GOT WANT
//
// With -archives it compares the layers that two image archives hold.
//
// A pattern is of path.Match, on the path relative to the roots; a field is one of those
// of testimage.CompareOptions, * for all.
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/layerfs/layerfs/internal/testimage"
)

func main() {
	ignore := flag.String("ignore", "", "differences that do not count")
	archives := flag.Bool("archives", false, "compare the layers in two image archives instead")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: same [-ignore PATTERN:FIELD,…] GOT WANT")
		os.Exit(2)
	}
	if *archives {
		if err := sameArchives(flag.Arg(0), flag.Arg(1)); err != nil {
			fmt.Fprintln(os.Stderr, "same:", err)
			os.Exit(1)
		}
		return
	}
	diffs, entries, err := testimage.Differences(flag.Arg(0), flag.Arg(1), testimage.CompareOptions{Ignore: ignoring(*ignore)})
	if err != nil {
		fmt.Fprintln(os.Stderr, "same:", err)
		os.Exit(1)
	}
	if len(diffs) == 0 {
		fmt.Printf("%d entries are the same\n", entries)
		return
	}
	const shown = 10
	fmt.Fprintf(os.Stderr, "%s and %s have %d differences\n", flag.Arg(0), flag.Arg(1), len(diffs))
	for _, d := range diffs[:min(shown, len(diffs))] {
		fmt.Fprintln(os.Stderr, d)
	}
	os.Exit(1)
}

func ignoring(list string) func(name, field string) bool {
	type rule struct{ pattern, field string }
	var rules []rule
	for item := range strings.SplitSeq(list, ",") {
		if pattern, field, ok := strings.Cut(item, ":"); ok {
			rules = append(rules, rule{pattern, field})
		}
	}
	return func(name, field string) bool {
		for _, r := range rules {
			if r.field != "*" && r.field != field {
				continue
			}
			if ok, err := path.Match(r.pattern, name); r.pattern == "*" || ok && err == nil {
				return true
			}
		}
		return false
	}
}
