package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/statefile"
	"picket.internal/wgtun/key"
)

// TestMemoryOfPermittedPeers starts the agent, with a real tunnel in user space, from the map on disk, once with 20 permitted peers and once
// with 10,000.
func TestMemoryOfPermittedPeers(t *testing.T) {
	few, goroutines := agentWith(t, 20)
	many, more := agentWith(t, 10000)
	t.Logf("live memory of the agent: %d bytes with 20 permitted peers, %d with 10,000: %d for each more", few, many, (many-few)/9980)
	if limit := few*3/2 + 9980*(1024+heavier); many > limit {
		t.Errorf("%d bytes with 10,000 permitted peers, at most %d are due: half more than with 20, and 1 KiB for each more", many, limit)
	}
	if more > goroutines+10 { // some are of the session that is tried again and again
		t.Errorf("%d goroutines with 20 permitted peers, %d with 10,000", goroutines, more)
	}
}

// agentWith is how much an agent with so many permitted peers adds to what lives in this process.
func agentWith(t *testing.T, peers int) (memory int64, goroutines int) {
	t.Helper()
	directory := permitted(t, peers)
	before, running := live(), runtime.NumGoroutine()
	dir, err := statefile.Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	n, err := New(Config{State: dir, Version: "test", TUN: Userspace, Loopback: true, Socket: newQuietListener(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		v := n.view.Load()
		if v.overlay != nil && len(v.overlay.Stats().Peers) == peers {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tunnel does not have its %d peers: %v", peers, v.status().Warnings)
		}
	}
	return live() - before, runtime.NumGoroutine() - running
}

func live() int64 {
	runtime.GC()
	runtime.GC() // what pools hold goes at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// permitted makes the state directory of an admitted node whose map on disk permits so many peers, each known to it.
func permitted(t *testing.T, peers int) string {
	t.Helper()
	w := &world{t: t, key: key.NewCoordinator(), dir: filepath.Join(t.TempDir(), "state")}
	dir, err := statefile.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(dir.SaveNode(statefile.Node{
		Device: key.NewDevice(), Tunnel: key.NewTunnel(), Probe: key.NewProbe(), URL: "https://127.0.0.1:1", Coordinator: w.key.Public(),
		Network: testNetwork, Node: selfID, WantUp: true,
	}))
	var entries []protocol.Peer
	for i := range peers {
		p := newPeer(acl.NodeID(fmt.Sprintf("node%05d", i)), netip.AddrFrom4([4]byte{100, 100, byte(i >> 8), byte(i)}).String())
		entries = append(entries, p.entry())
	}
	must(dir.SaveMap(statefile.Map{Network: testNetwork, Node: selfID, Signed: w.signed(5, content(entries...))}))
	return w.dir
}
