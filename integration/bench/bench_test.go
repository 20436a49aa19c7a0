//go:build linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"picket.internal/integration/lab"
)

func TestMain(m *testing.M) {
	lab.Helper()
	helper()
	os.Exit(m.Run())
}

// TestQuickRun measures both tunnels in earnest, though briefly: every figure is there, and no namespace is left.
func TestQuickRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	if why := lab.CanPrivileged(); why != nil {
		t.Skipf("needs network namespaces and TUN devices: %v", why)
	}
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/picket", "./cmd/picket-coordinator")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "pkbench-") // short: unix sockets in it have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p := short
	p.rounds = 1
	r, err := measureAll(t.Context(), lab.Config{Bin: bin, Dir: dir}, p)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics {
		for _, s := range append(r.pickets, side{"bare", r.bare}) {
			for _, f := range s.figures {
				if m.of(f) <= 0 {
					t.Errorf("%s, %s: nothing was measured: %v", s.name, m.name, f)
				}
			}
		}
	}
	for _, m := range wayMetrics {
		for _, w := range append(r.ways, r.beside...) {
			if m.of(w) <= 0 {
				t.Errorf("%s: nothing was measured: %v", m.name, w)
			}
		}
	}
	left, _ := filepath.Glob("/run/netns/picket-" + pid() + "-*")
	if len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
}

func pid() string {
	self, _ := os.Readlink("/proc/self")
	return self
}

func TestParseStatRefuses(t *testing.T) {
	for name, stat := range map[string]string{
		"nothing":       "",
		"too few":       "7 (x) S 1 2 3",
		"no number":     "7 (x) S 1 2 3 4 5 6 7 8 9 10 many 4 0 0",
		"negative":      "7 (x) S 1 2 3 4 5 6 7 8 9 10 -3 4 0 0",
		"system absent": "7 (x) S 1 2 3 4 5 6 7 8 9 10 3",
	} {
		if s, err := parseStat(stat); err == nil {
			t.Errorf("%s: read as %v s", name, s)
		}
	}
}

func TestParseStat(t *testing.T) {
	const stat = "7 (a ) S 9 (b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20"
	if s, err := parseStat(stat); err != nil || s != 3 {
		t.Errorf("got %v s, %v; want 3 s: a name may hold parentheses", s, err)
	}
}

func TestParsePeak(t *testing.T) {
	if mb, err := parsePeak("VmPeak:\t 9 kB\nVmHWM:\t  125000 kB\nVmRSS:\t 1 kB\n"); err != nil || mb != 128 {
		t.Errorf("got %v MB, %v; want 128", mb, err)
	}
	if mb, err := parsePeak("VmRSS:\t 1 kB\n"); err == nil {
		t.Errorf("no VmHWM was read as %v MB", mb)
	}
}

func TestRatiosAreOfEachRound(t *testing.T) {
	m := metric[figures]{of: func(f figures) float64 { return f.tcp1 }}
	a := []figures{{tcp1: 100}, {tcp1: 50}, {tcp1: 10}, {tcp1: 10}}
	b := []figures{{tcp1: 100}, {tcp1: 25}, {tcp1: 20}, {tcp1: 15}}
	if got, want := m.ratios(a, b), (spread{0.5, 1.25, 2}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFloorHasTwoSides(t *testing.T) {
	for _, c := range []struct {
		least bool
		ratio float64
		holds bool
	}{{false, 0.89, false}, {true, 0.91, false}, {false, 0.9, true}, {true, 0.9, true}} {
		if got := (metric[figures]{least: c.least, floor: 0.9}).holds(c.ratio); got != c.holds {
			t.Errorf("ratio %v, less is better %v: holds %v, want %v", c.ratio, c.least, got, c.holds)
		}
	}
}

func TestSearch(t *testing.T) {
	limit := func(max float64) func(float64) (float64, bool, error) {
		return func(rate float64) (float64, bool, error) { return min(rate, max), rate <= max, nil }
	}
	for _, max := range []float64{3000, 10_000, 45_000, 300_000} {
		if got, err := search(limit(max)); err != nil || got > max || got < max*0.93 {
			t.Errorf("limit %v: found %v, %v", max, got, err)
		}
	}
	tries := 0
	got, err := search(func(rate float64) (float64, bool, error) {
		tries++
		return rate, rate <= 45_000 && tries != 2, nil
	})
	if err != nil || got < 42_000 {
		t.Errorf("one hiccup ended the search at %v, %v", got, err)
	}
	if got, err := search(limit(0)); err == nil {
		t.Errorf("a network that passes nothing has rate %v", got)
	}
	broken := errors.New("broken")
	if _, err := search(func(float64) (float64, bool, error) { return 0, false, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the try's error", err)
	}
}

// TestPolicyConcernsBothNodes holds the policy to its number of rules, each between the two nodes.
func TestPolicyConcernsBothNodes(t *testing.T) {
	if n := strings.Count(policyText(), `{"src": ["tag:client"], "dst": ["tag:server"]`); n != rules {
		t.Errorf("%d rules, want %d", n, rules)
	}
}
