package relays

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/path"
)

// world is relays, each with its latency; 0 means that it does not answer.
type world struct {
	*Set
	mu    sync.Mutex
	far   map[string]time.Duration
	open  map[string]int // links
	sent  map[string]int
	asked map[string]time.Time // since when a relay owes an answer
	check map[string]int
	homes []string
}

func newWorld(t *testing.T, far map[string]time.Duration) *world {
	w := &world{far: far, open: map[string]int{}, sent: map[string]int{}, asked: map[string]time.Time{}, check: map[string]int{}}
	w.Set = New(Config{
		Logger: slog.New(slog.DiscardHandler), Open: func(name string) Link { return &fake{w, name} },
		Homed: func(_ context.Context, name string) { w.homes = append(w.homes, name) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		for name, n := range w.open {
			if n != 0 {
				t.Errorf("%d links to %s are left", n, name)
			}
		}
	})
	return w
}

func (w *world) set(name string, far time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.far[name] = far
}

// owe has a relay give no answer from now on.
func (w *world) owe(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		w.asked[name] = time.Now()
	}
}

func (w *world) linked() (out []string) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, n := range w.open {
		if n > 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

type fake struct {
	w    *world
	name string
}

func (f *fake) Run(ctx context.Context) error {
	count := func(n int) { f.w.mu.Lock(); defer f.w.mu.Unlock(); f.w.open[f.name] += n }
	count(1)
	<-ctx.Done()
	count(-1)
	return nil
}

func (f *fake) Renew() {}

func (f *fake) Check() {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.check[f.name]++
}

func (f *fake) Send([32]byte, []byte) bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.sent[f.name]++
	return f.w.far[f.name] > 0
}

func (f *fake) Status() Status {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return Status{Connected: f.w.far[f.name] > 0 && f.w.open[f.name] > 0, Latency: f.w.far[f.name], Asked: f.w.asked[f.name]}
}

const ms = time.Millisecond

func three() map[string]time.Duration {
	return map[string]time.Duration{"near": 10 * ms, "middle": 40 * ms, "far": 200 * ms}
}

func names(far map[string]time.Duration) []string { return slices.Sorted(maps.Keys(far)) }

func TestHomeIsTheNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, three())
		w.Use(names(w.far))
		time.Sleep(2 * time.Second)
		if w.Home() != "near" {
			t.Errorf("home %q", w.Home())
		}
		time.Sleep(10 * time.Minute)
		if got := w.linked(); !slices.Equal(got, []string{"middle", "near"}) {
			t.Errorf("links to %v, want the home and one in reserve", got)
		}
		w.Use(nil)
		time.Sleep(time.Second)
		if got := w.linked(); len(got) != 0 || w.Home() != "" {
			t.Errorf("links to %v, home %q, without relays", got, w.Home())
		}
	})
}

// A home that dies is left for the one in reserve at once.
func TestDeadHomeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, three())
		w.Use(names(w.far))
		time.Sleep(10 * time.Minute)
		w.set("near", 0)
		time.Sleep(time.Second)
		if w.Home() != "middle" {
			t.Errorf("home %q after a second", w.Home())
		}
		if got := w.linked(); !slices.Contains(got, "far") {
			t.Errorf("links to %v: nothing is looked for in reserve", got)
		}
		w.set("middle", 0)
		time.Sleep(2 * time.Second)
		if w.Home() != "far" {
			t.Errorf("home %q when the reserve is dead, too", w.Home())
		}
		w.set("far", 0)
		time.Sleep(time.Second)
		if w.Home() != "" {
			t.Errorf("home %q of none that answers", w.Home())
		}
		w.set("far", 300*ms)
		time.Sleep(measureAgain + 2*time.Second)
		if w.Home() != "far" {
			t.Errorf("home %q when one is back", w.Home())
		}
		if want := []string{"near", "middle", "", "far", "", "far"}; !slices.Equal(w.homes, want) && !slices.Equal(w.homes, slices.Delete(slices.Clone(want), 2, 3)) {
			t.Errorf("told of %q", w.homes)
		}
	})
}

// While the home owes an answer the others are asked, and when it is dead none takes its place that owes one, too.
func TestDeadReserveIsNotMadeHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, three())
		w.Use(names(w.far))
		time.Sleep(10 * time.Minute)
		w.owe("near", "middle")
		time.Sleep(doubtAfter + lookEvery + ms)
		w.mu.Lock()
		if w.check["middle"] == 0 || w.check["near"] != 0 || w.Home() != "near" {
			t.Errorf("asked %v, home %q", w.check, w.Home())
		}
		w.mu.Unlock()
		w.set("near", 0)
		time.Sleep(2*lookEvery + ms)
		if w.Home() != "far" {
			t.Errorf("home %q, want the only one that answers", w.Home())
		}
		w.mu.Lock()
		clear(w.check)
		w.mu.Unlock()
		w.Check()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.check["far"] != 1 || w.check["middle"] != 1 {
			t.Errorf("asked %v, want each link", w.check)
		}
	})
}

// A home that wavers stays.
func TestHomeIsLeftForANearerOneOnlyWithPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, three())
		w.Use(names(w.far))
		time.Sleep(time.Minute)
		for range 20 {
			w.set("near", 100*ms)
			time.Sleep(20 * time.Second)
			w.set("near", 10*ms)
			time.Sleep(5 * time.Second)
		}
		w.set("near", 45*ms) // worse, but not much
		time.Sleep(5 * time.Minute)
		if len(w.homes) != 1 || w.Home() != "near" {
			t.Errorf("homes %q", w.homes)
		}
		w.set("near", 100*ms)
		time.Sleep(betterFor + time.Second)
		if w.Home() != "middle" {
			t.Errorf("home %q", w.Home())
		}
	})
}

// A peer's home gets a link when it is sent to, which goes when it is no longer; who is no relay of the map's gets none.
func TestLinksToPeersHomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, three())
		w.Use(names(w.far))
		time.Sleep(time.Hour)
		to := path.Home{Relay: "far"}
		w.Send(to, nil)
		w.Send(path.Home{Relay: "unknown"}, nil)
		time.Sleep(lookEvery + ms)
		if !w.Send(to, nil) {
			t.Error("no link to a peer's home")
		}
		time.Sleep(unusedLife - time.Second)
		if got := w.linked(); !slices.Equal(got, []string{"far", "middle", "near"}) {
			t.Errorf("links to %v", got)
		}
		time.Sleep(5 * time.Second)
		if got := w.linked(); !slices.Equal(got, []string{"middle", "near"}) {
			t.Errorf("links to %v after it was unused", got)
		}
		w.Use([]string{"middle"})
		time.Sleep(time.Second)
		if got := w.linked(); !slices.Equal(got, []string{"middle"}) || w.Home() != "middle" {
			t.Errorf("links to %v, home %q: the map names one relay only", got, w.Home())
		}
	})
}
