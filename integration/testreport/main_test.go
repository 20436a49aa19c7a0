package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

const first = `{"Action":"start","Package":"picket.internal/a"}
{"Action":"pass","Package":"picket.internal/a","Test":"TestPasses"}
{"Action":"output","Package":"picket.internal/a","Test":"TestSkips","Output":"  x_test.go:1: because\n"}
{"Action":"skip","Package":"picket.internal/a","Test":"TestSkips"}
{"Action":"output","Package":"picket.internal/a","Test":"TestDies","Output":"PC=0x437770 m=5 sigcode=1\n"}
{"Action":"fail","Package":"picket.internal/a","Elapsed":0.6}
{"Action":"start","Package":"picket.internal/b"}
{"Action":"output","Package":"picket.internal/b","Test":"TestFails","Output":"  [signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x4e7e25]\n"}
{"Action":"fail","Package":"picket.internal/b","Test":"TestFails"}
{"Action":"fail","Package":"picket.internal/b"}
`

const second = `{"Action":"start","Package":"picket.internal/a"}
{"Action":"pass","Package":"picket.internal/a","Test":"TestPasses"}
{"Action":"pass","Package":"picket.internal/a","Test":"TestDies"}
{"Action":"pass","Package":"picket.internal/a"}
`

func told(t *testing.T, in string) (*report, string) {
	t.Helper()
	r := newReport()
	var out strings.Builder
	if err := r.read(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	r.write(&out)
	return r, out.String()
}

func TestProcessThatDiedOutsideGo(t *testing.T) {
	r, text := told(t, first)
	if got := slices.Collect(maps.Keys(r.broken)); !slices.Equal(got, []string{"picket.internal/a"}) {
		t.Errorf("broken: %v, want the package that died outside Go alone", got)
	}
	for _, want := range []string{"=== failed: picket.internal/a TestDies", "skipped: because\n  a TestSkips", "1 passed, 2 failed, 1 skipped"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}

	r, text = told(t, first+second)
	if len(r.broken) != 0 {
		t.Errorf("broken: %v, though it was run again", r.broken)
	}
	for _, want := range []string{"run again: picket.internal/a\n", "=== failed: picket.internal/b TestFails", "2 passed, 1 failed, 0 skipped"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "failed: picket.internal/a") {
		t.Errorf("what it gave at first counts:\n%s", text)
	}
}
