// Testreport reads `go test -json` and prints, for people: each package's result, every failure whole, every skip with its reason,
// and the totals.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
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
	passed  int
	failed  []name
	ended   map[name]bool // of those that failed
	skips   int
}

func main() {
	r := report{output: map[name]*strings.Builder{}, skipped: map[string][]string{}, ended: map[name]bool{}}
	if err := r.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r.write(os.Stdout)
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
	case "output":
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
		r.passed++
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
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", r.passed, tests, r.skips)
}
