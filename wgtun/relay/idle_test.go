package relay

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"picket.internal/wgtun/key"
)

// What a client costs that has sent and received something, and now does nothing. Both ends of each connection are counted.
func TestIdleClientsCostLittle(t *testing.T) {
	if raced || testing.Short() {
		t.Skip("5,000 connections; under the race detector memory says nothing")
	}
	const clients, most = 5000, 40 << 10
	coordinator := key.NewCoordinator()
	s := NewServer(ServerConfig{Coordinator: coordinator.Public(), Network: network, Name: "near"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = PromptListener(l)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { _ = s.Serve(ctx, c) })
		}
	})
	defer running.Wait()
	defer l.Close()
	defer s.Close()
	defer cancel()
	before := memory()
	conns := make([]net.Conn, 0, clients)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for len(conns) < clients {
		devices := [2]key.DevicePrivate{key.NewDevice(), key.NewDevice()}
		var ends [2]net.Conn
		for i, d := range devices {
			if ends[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
				t.Skipf("no %d connections here: %v", clients, err)
			}
			conns = append(conns, ends[i])
			other := AddressOf(network, devices[1-i].Public())
			logIn(t, ends[i], d, NewPass(network, d.Public(), []Address{other}, time.Now()), coordinator)
		}
		for i := range ends {
			to := AddressOf(network, devices[1-i].Public())
			if _, err := ends[i].Write(appendFrame(nil, kindDatagram, to[:], make([]byte, 1280))); err != nil {
				t.Fatal(err)
			}
			_ = ends[1-i].SetReadDeadline(time.Now().Add(10 * time.Second))
			r := &reader{r: ends[1-i], only: func(k kind) bool { return k == kindDatagram }}
			if _, _, err := r.next(); err != nil {
				t.Fatal(err)
			}
			r.release()
		}
	}
	if n := s.Stats().Clients; n != clients {
		t.Fatalf("%d clients", n)
	}
	each := (memory() - before) / clients
	t.Logf("%d bytes for each of %d idle clients, %d goroutines", each, clients, runtime.NumGoroutine())
	if each > most {
		t.Errorf("more than %d", most)
	}
}

// memory is what the heap and all stacks hold, in bytes.
func memory() int {
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse)
}
