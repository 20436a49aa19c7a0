package node

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// stopped is an agent that has carried flows and was stopped.
func stopped(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.join()
	w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
	w.overlay().saved = []byte("flows")
	w.stop()
	return w
}

func TestFlows_surviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stopped(t)
		time.Sleep(3 * time.Second)
		w.start()
		if got := w.overlay().restore; !slices.Equal(got, []string{"flows after 3s under generation 5"}) {
			t.Errorf("carried on: %q", got)
		}
		if !w.overlay().awaits {
			t.Error("refused packets are answered before the flows are there")
		}
		w.send(w.signed(6, content(newPeer("a", "100.64.0.2").entry())))
		if got := w.overlay().restore; len(got) != 1 {
			t.Errorf("carried on twice: %q", got)
		}
		w.overlay().saved = nil
		w.stop()
		w.start()
		if got := w.overlay().restore; len(got) != 1 || got[0] == "flows after 3s under generation 5" {
			t.Errorf("the flows of an agent before the last one came back: %q", got)
		}
	})
}

// Nothing is carried on that lies too long back, or before the host was started.
func TestFlows_ofAnotherTimeAreForgotten(t *testing.T) {
	for name, between := range map[string]func(*world){
		"too long ago":        func(*world) { time.Sleep(maxHandover + time.Second) },
		"the host was booted": func(w *world) { w.boot = "second" },
		"no telling":          func(w *world) { w.boot = "" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := stopped(t)
				between(w)
				w.start()
				if got := w.overlay().restore; len(got) != 0 {
					t.Errorf("carried on: %q", got)
				}
			})
		})
	}
}

// After `down` nothing is left to carry on.
func TestFlows_endWithDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		w.overlay().saved = []byte("flows")
		if err := w.api().Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.stop()
		w.start()
		if len(w.overlays) > 1 && len(w.overlay().restore) != 0 {
			t.Errorf("carried on: %q", w.overlay().restore)
		}
		if w.overlay().awaits {
			t.Error("the tunnel waits for flows")
		}
	})
}

// Somebody deletes the interface: the tunnel that is opened next carries on.
func TestFlows_surviveADeletedInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		w.overlay().saved = []byte("flows")
		w.overlay().kill <- errors.New("interface gone")
		time.Sleep(retryEvery + time.Second)
		synctest.Wait()
		if got := w.overlay().restore; len(w.overlays) != 2 || len(got) != 1 {
			t.Errorf("%d tunnels, carried on: %q", len(w.overlays), got)
		}
	})
}
