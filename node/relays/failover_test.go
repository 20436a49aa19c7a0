package relays

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
	"picket.internal/wgtun/relay"
)

// internet is real relays, and a node with real connections to them.
type internet struct {
	*Set
	t       *testing.T
	key     key.CoordinatorPrivate
	device  key.DevicePrivate
	servers map[string]*relay.Server
	serving sync.WaitGroup
	mu      sync.Mutex
	silent  map[string]bool // relays from which nothing comes
	back    chan struct{}   // closed when they are back
}

func newInternet(t *testing.T, names ...string) *internet {
	n := &internet{t: t, key: key.NewCoordinator(), device: key.NewDevice(), servers: map[string]*relay.Server{}, silent: map[string]bool{}, back: make(chan struct{})}
	for _, name := range names {
		n.servers[name] = relay.NewServer(relay.ServerConfig{Coordinator: n.key.Public(), Network: "net", Name: name})
	}
	n.Set = New(Config{Logger: slog.New(slog.DiscardHandler), Open: n.open})
	ctx, cancel := context.WithCancel(t.Context())
	n.serving.Go(func() { _ = n.Run(ctx) })
	t.Cleanup(func() {
		close(n.back)
		cancel()
		for _, s := range n.servers {
			s.Close()
		}
		n.serving.Wait()
	})
	n.Use(names)
	return n
}

func (n *internet) open(name string) Link {
	unsigned := relay.NewPass("net", n.device.Public(), nil, time.Now())
	pass := unsigned.Sign(n.key)
	return realLink{relay.NewClient(relay.ClientConfig{
		Name: name, Network: "net", Device: n.device, Pass: func() []byte { return pass }, Receive: func(relay.Address, []byte) {},
		Dial: func(ctx context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			n.serving.Go(func() { _ = n.servers[name].Serve(context.WithoutCancel(ctx), there) })
			return &cable{Conn: here, n: n, name: name, closed: make(chan struct{})}, nil
		},
	})}
}

type realLink struct{ *relay.Client }

func (l realLink) Send(to [32]byte, datagram []byte) bool { return l.Client.Send(to, datagram) }

func (l realLink) Status() Status {
	s := l.Client.Status()
	return Status{Connected: s.Connected, Latency: s.Latency, Asked: s.Asked, Err: s.Err}
}

// cable is a connection that can go dead without a word, as when the far host's power fails.
type cable struct {
	net.Conn
	n      *internet
	name   string
	once   sync.Once
	closed chan struct{}
}

func (c *cable) Read(b []byte) (int, error) {
	k, err := c.Conn.Read(b)
	c.n.mu.Lock()
	silent := c.n.silent[c.name]
	c.n.mu.Unlock()
	if silent {
		select {
		case <-c.n.back:
		case <-c.closed:
		}
		return 0, net.ErrClosed
	}
	return k, err
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A home that goes dead without a word is left within 5 s of that for one that lives, whatever moment it is: while datagrams go through it, also when
// the one in reserve is dead as well; and when it is idle, within 5 s of somebody's word that he does not reach this node.
func TestSilentHomeIsLeftWithin5s(t *testing.T) {
	for name, c := range map[string]struct {
		idle bool
		dead int
	}{"in use": {false, 1}, "in use, and the reserve": {false, 2}, "idle": {true, 1}} {
		t.Run(name, func(t *testing.T) {
			for i := range 8 {
				synctest.Test(t, func(t *testing.T) {
					n := newInternet(t, "a", "b", "c")
					time.Sleep(time.Minute)
					for range 40 + i {
						if !c.idle {
							n.Send(path.Home{Relay: n.Home()}, []byte("datagram"))
						}
						time.Sleep(170 * time.Millisecond)
					}
					was := n.Home()
					dead := []string{was}
					for other := range n.List() {
						if other != was && len(dead) < c.dead {
							dead = append(dead, other)
						}
					}
					n.mu.Lock()
					for _, name := range dead {
						n.silent[name] = true
					}
					n.mu.Unlock()
					died := time.Now()
					if c.idle {
						n.Check()
					}
					for (n.Home() == "" || slices.Contains(dead, n.Home())) && time.Since(died) < time.Minute {
						time.Sleep(time.Millisecond)
					}
					if d := time.Since(died); d > 5*time.Second || len(dead) != c.dead {
						t.Errorf("left %v for %q after %v", dead, n.Home(), d)
					}
				})
			}
		})
	}
}
