// Command testreport turns the output of `go test -json` into what a person wants to
// read, and remembers what a CI run must not hide.
//
//	go test -json ./... | testreport -lane root -dir DIR
//	testreport -dir DIR
//
// The first form prints one line per package, the output of each test that failed, and
// writes its counts and skips to DIR/LANE.json. The second prints the skipped tests of
// all lanes with their reasons and ends with the line "tests: N passed, N failed, N
// skipped". Without -dir the first form prints that ending itself.
// It exits with 1 when a test or a package failed, and when no test ran at all.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// skip is one skipped test and the reason it gave.
type skip struct{ Package, Test, Reason string }

// result is what one lane leaves behind.
type result struct {
	Lane           string
	Passed, Failed int
	Skips          []skip
}

func main() {
	lane := flag.String("lane", "", "name of this run of the tests")
	dir := flag.String("dir", "", "directory that collects the results of lanes")
	flag.Parse()
	if err := run(*lane, *dir, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func run(lane, dir string, in io.Reader, out io.Writer) error {
	if lane == "" {
		if dir == "" {
			return errors.New("give -lane, -dir or both")
		}
		results, err := load(dir)
		if err != nil {
			return err
		}
		return summary(out, results)
	}
	r, err := read(lane, in, out)
	if err != nil {
		return err
	}
	if dir == "" {
		return summary(out, []result{r})
	}
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, lane+".json"), data, 0o644); err != nil {
		return err
	}
	return verdict(r.Passed, r.Failed)
}

// read consumes one stream of events, printing as packages finish.
func read(lane string, in io.Reader, out io.Writer) (result, error) {
	r := result{Lane: lane}
	output := map[string]*strings.Builder{} // by package and test
	failedTests := map[string]int{}         // by package
	key := func(e event) string { return e.Package + e.ImportPath + "\x00" + e.Test }
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Fprintln(out, sc.Text()) // what the go command itself says
			continue
		}
		text := output[key(e)]
		if text == nil {
			text = new(strings.Builder)
			output[key(e)] = text
		}
		switch e.Action {
		case "output", "build-output":
			text.WriteString(e.Output)
		case "build-fail":
			fmt.Fprintf(out, "FAIL %s does not build\n%s", e.ImportPath, text)
			r.Failed++
		case "pass", "fail", "skip":
			if e.Test == "" {
				if finish(out, e, text.String(), failedTests[e.Package]) {
					r.Failed++
				}
			} else {
				switch e.Action {
				case "pass":
					r.Passed++
				case "skip":
					r.Skips = append(r.Skips, skip{e.Package, e.Test, reason(text.String())})
				case "fail":
					r.Failed++
					failedTests[e.Package]++
					fmt.Fprintf(out, "--- FAIL %s %s\n%s", e.Package, e.Test, text)
				}
			}
			delete(output, key(e))
		}
	}
	return r, sc.Err()
}

// finish prints the line of a finished package. It reports whether the package failed
// without any of its tests failing: a build that broke, a panic, a time-out.
func finish(out io.Writer, e event, text string, failedTests int) bool {
	switch {
	case e.Action == "pass":
		fmt.Fprintf(out, "ok   %s %.1fs\n", e.Package, e.Elapsed)
	case e.Action == "skip": // no test files
	case failedTests > 0 || e.FailedBuild != "": // told already
		fmt.Fprintf(out, "FAIL %s %.1fs\n", e.Package, e.Elapsed)
	default:
		fmt.Fprintf(out, "FAIL %s %.1fs\n%s", e.Package, e.Elapsed, text)
		return true
	}
	return false
}

// skipLine is what t.Skip prints: "    x_test.go:12: why".
var skipLine = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// reason picks the message of t.Skip out of a test's output, the last that was logged.
func reason(text string) string {
	all := skipLine.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return "no reason given"
	}
	return strings.TrimSpace(all[len(all)-1][1])
}

func load(dir string) ([]result, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var results []result
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var r result
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// summary prints skips by reason, then the count over all lanes.
func summary(out io.Writer, results []result) error {
	var passed, failed, skipped int
	for _, r := range results {
		passed += r.Passed
		failed += r.Failed
		skipped += len(r.Skips)
		byReason := map[string][]string{}
		for _, s := range r.Skips {
			_, short, _ := strings.Cut(s.Package, "layerfs/layerfs/")
			byReason[s.Reason] = append(byReason[s.Reason], short+"."+s.Test)
		}
		for _, why := range slices.Sorted(maps.Keys(byReason)) {
			fmt.Fprintf(out, "skipped (%s): %s\n", r.Lane, why)
			for _, name := range byReason[why] {
				fmt.Fprintf(out, "    %s\n", name)
			}
		}
	}
	for _, r := range results {
		fmt.Fprintf(out, "%-10s %5d passed %5d failed %5d skipped\n", r.Lane, r.Passed, r.Failed, len(r.Skips))
	}
	fmt.Fprintf(out, "tests: %d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return verdict(passed, failed)
}

func verdict(passed, failed int) error {
	switch {
	case failed > 0:
		return fmt.Errorf("%d failed", failed)
	case passed == 0:
		return errors.New("no test ran")
	}
	return nil
}
