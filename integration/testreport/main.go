// Testreport reads `go test -json` and prints, for people: each package's result, every failure whole, every skip with its reason,
// and the totals.
//
// With -broken it prints nothing but the packages whose tests the race detector's own runtime ended. In a synctest bubble two threads may
// run timers under one of the detector's contexts at a time, which it does not bear (golang/go issue 78156): the process dies outside Go,
// and nothing is said about the code under test. Such a package is to be run again; what it gave at first does not count, and is told.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
)

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type name struct{ pkg, test string }

// report gathers what is to be said.
type report struct {
	output  map[name]*strings.Builder // of tests that have not passed
	skipped map[string][]string       // reason to tests
	passed  map[string]int            // by package
	failed  []name
	ended   map[name]bool // of those that failed
	skips   int
	broken  map[string]bool // packages whose process died outside Go, and which have not been run since
	again   []string        // packages run again
}

func newReport() *report {
	return &report{output: map[name]*strings.Builder{}, skipped: map[string][]string{}, passed: map[string]int{}, ended: map[name]bool{}, broken: map[string]bool{}}
}

func main() {
	broken := flag.Bool("broken", false, "print the packages that the race detector's own runtime ended, and nothing else")
	flag.Parse()
	r := newReport()
	out := io.Writer(os.Stdout)
	if *broken {
		out = io.Discard
	}
	if err := r.read(os.Stdin, out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if *broken {
		for _, pkg := range slices.Sorted(maps.Keys(r.broken)) {
			fmt.Println(pkg)
		}
		return
	}
	r.write(out)
	if len(r.failed) > 0 {
		os.Exit(1)
	}
}

func (r *report) read(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text()) // a build failure, say
			continue
		}
		r.take(e, out)
	}
	return lines.Err()
}

func (r *report) take(e event, out io.Writer) {
	at := name{e.Package, e.Test}
	switch e.Action {
	case "start":
		if r.broken[e.Package] {
			r.forget(e.Package)
		}
	case "output":
		if outsideGo(e.Output) {
			r.broken[e.Package] = true
		}
		if r.output[at] == nil {
			r.output[at] = &strings.Builder{}
		}
		r.output[at].WriteString(e.Output)
	case "build-output":
		fmt.Fprint(out, e.Output)
	case "pass", "fail", "skip":
		r.end(e, at, out)
	}
}

// outsideGo reports whether a line tells of a fault in code that is not Go's, which in these tests is the race detector's alone. A fault of
// Go code, by a wrong pointer too, is told in other words ("[signal SIGSEGV: ...]").
func outsideGo(line string) bool {
	return strings.HasPrefix(line, "PC=0x") && strings.Contains(line, " sigcode=") || strings.Contains(line, "ThreadSanitizer: CHECK failed")
}

// forget drops what a package gave before it is run again.
func (r *report) forget(pkg string) {
	delete(r.broken, pkg)
	r.again = append(r.again, pkg)
	r.passed[pkg] = 0
	r.failed = slices.DeleteFunc(r.failed, func(at name) bool { return at.pkg == pkg })
	maps.DeleteFunc(r.output, func(at name, _ *strings.Builder) bool { return at.pkg == pkg })
	maps.DeleteFunc(r.ended, func(at name, _ bool) bool { return at.pkg == pkg })
	own := strings.TrimPrefix(pkg, "picket.internal/") + " "
	for reason, tests := range r.skipped {
		r.skipped[reason] = slices.DeleteFunc(tests, func(test string) bool { return strings.HasPrefix(test, own) })
		r.skips -= len(tests) - len(r.skipped[reason])
		if len(r.skipped[reason]) == 0 {
			delete(r.skipped, reason)
		}
	}
}

func (r *report) end(e event, at name, out io.Writer) {
	if e.Test == "" {
		if e.Action != "skip" { // a package without tests
			fmt.Fprintf(out, "%-5s %s %.1fs\n", e.Action, e.Package, e.Elapsed)
		}
		if e.Action == "fail" {
			r.failed = append(r.failed, append(r.unfinished(e.Package), at)...)
		}
		return
	}
	switch e.Action {
	case "pass":
		r.passed[e.Package]++
		delete(r.output, at)
	case "fail":
		r.failed = append(r.failed, at)
		r.ended[at] = true
	case "skip":
		r.skips++
		reason := skipReason(r.output[at])
		delete(r.output, at)
		r.skipped[reason] = append(r.skipped[reason], strings.TrimPrefix(e.Package, "picket.internal/")+" "+e.Test)
	}
}

// unfinished lists a package's tests that began and did not end, because the whole process did.
func (r *report) unfinished(pkg string) (out []name) {
	for at := range r.output {
		if at.pkg == pkg && at.test != "" && !r.ended[at] {
			out = append(out, at)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].test < out[j].test })
	return out
}

// skipReason is what the test said, without file and line.
func skipReason(b *strings.Builder) string {
	if b == nil {
		return "no reason given"
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if _, reason, ok := strings.Cut(line, ".go:"); ok {
			if _, words, ok := strings.Cut(reason, ": "); ok {
				return strings.TrimSpace(words)
			}
		}
	}
	return "no reason given"
}

func (r *report) write(out io.Writer) {
	tests := 0
	for _, at := range r.failed {
		if at.test != "" {
			tests++
		}
		if b := r.output[at]; b != nil {
			fmt.Fprintf(out, "\n=== failed: %s %s\n%s", at.pkg, at.test, b)
		}
	}
	reasons := make([]string, 0, len(r.skipped))
	for reason := range r.skipped {
		reasons = append(reasons, reason)
	}
	sort.Strings(reasons)
	for _, reason := range reasons {
		fmt.Fprintf(out, "\nskipped: %s\n  %s\n", reason, strings.Join(r.skipped[reason], "\n  "))
	}
	for _, pkg := range r.again {
		fmt.Fprintf(out, "\nrun again: %s\n  the race detector's own runtime had ended its tests (golang/go issue 78156)\n", pkg)
	}
	passed := 0
	for _, n := range r.passed {
		passed += n
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", passed, tests, r.skips)
}
