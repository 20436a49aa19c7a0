package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ring is members in one network.
type ring struct {
	t   *testing.T
	net *memory
	key Key
}

// member is a Cluster that runs.
type member struct {
	*Cluster
	at   netip.AddrPort
	stop func()

	mu   sync.Mutex
	news []string
	logs bytes.Buffer
}

func (m *member) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs.Write(b)
}

func (m *member) told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	news := m.news
	m.news = nil
	return news
}

func place(i byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 7946)
}

func newRing(t *testing.T, loss float64) *ring { return &ring{t, newMemory(loss), Key{1}} }

// start starts a member at place i; it joins the one at place 1.
func (r *ring) start(i byte, meta Meta, change ...func(*Config)) *member {
	r.t.Helper()
	m := &member{at: place(i)}
	c := Config{
		Network: "net-1", Self: meta, Listen: m.at, Key: r.key, Logger: slog.New(slog.NewTextHandler(m, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Changed: func(x Member) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.news = append(m.news, fmt.Sprintf("%s %v", x.Name, x.Alive))
		},
		transport: r.net.port(m.at),
	}
	if i > 1 {
		c.Join = []string{place(1).String()}
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	if m.Cluster, err = Open(c); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}()
	m.stop = sync.OnceFunc(func() {
		began := time.Now()
		cancel()
		<-done
		if d := time.Since(began); d > leaveTime+lookUpTime+maxJoin*streamTime {
			r.t.Errorf("stopping took %v", d)
		}
	})
	r.t.Cleanup(m.stop)
	return m
}

// settle lets what memberlist has begun end, so that the bubble can.
func settle() { time.Sleep(time.Minute) }

// says is what a member knows of the others: "fra+ ams-".
func (m *member) says() string {
	var out []string
	for _, x := range m.Members() {
		out = append(out, x.Name+map[bool]string{true: "+", false: "-"}[x.Alive])
	}
	return strings.Join(out, " ")
}

func relayMeta(name string) Meta { return Meta{Role: Relay, Name: name, Version: "v1.2"} }

var homeMeta = Meta{Role: Coordinator, Name: "home", Version: "v1.2"}

// Three members, of whose datagrams a fifth is lost, know of each other; one that dies is noticed by both others within 10 s, and one that leaves though its word may be lost.
func TestWhoIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, 0.2)
		home, fra, ams := r.start(1, homeMeta), r.start(2, relayMeta("fra")), r.start(3, relayMeta("ams"))
		time.Sleep(10 * time.Second)
		for m, want := range map[*member]string{home: "ams+ fra+", fra: "home+ ams+", ams: "home+ fra+"} {
			if got := m.says(); got != want {
				t.Errorf("%v knows %q, want %q", m.at, got, want)
			}
		}
		time.Sleep(10 * time.Minute) // nobody is wronged by losses
		if got := home.told(); len(got) != 2 {
			t.Errorf("told of %q", got)
		}
		at := home.Members()[0]
		if at.At != ams.at || at.Version != "v1.2" || at.Role != Relay || at.Since.After(time.Now().Add(-9*time.Minute)) {
			t.Errorf("%+v", at)
		}
		r.net.die(ams.at)
		died := time.Now()
		for home.says() != "ams- fra+" || fra.says() != "home+ ams-" {
			if time.Sleep(10 * time.Millisecond); time.Since(died) > time.Minute {
				t.Fatalf("after a minute: %q, %q", home.says(), fra.says())
			}
		}
		t.Logf("noticed after %v", time.Since(died))
		if d := time.Since(died); d > 10*time.Second {
			t.Errorf("noticed only after %v", d)
		}
		synctest.Wait()
		if got := home.told(); len(got) != 1 || got[0] != "ams false" {
			t.Errorf("told of %q", got)
		}
		fra.stop()
		time.Sleep(15 * time.Second) // alone, it doubts itself first
		if got := home.says(); got != "ams- fra-" {
			t.Errorf("%q after one left", got)
		}
		home.stop()
		ams.stop()
		settle()
	})
}

// A member that comes back is joined again by those that are to join it, however long it was away, also at once under another address.
func TestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, 0)
		home, fra := r.start(1, homeMeta), r.start(2, relayMeta("fra"))
		time.Sleep(5 * time.Second)
		home.stop()
		time.Sleep(time.Second)
		if got := fra.says(); got != "home-" {
			t.Errorf("%q a second after it left", got)
		}
		time.Sleep(time.Hour)
		if got := fra.says(); got != "home-" {
			t.Errorf("%q while it is away", got)
		}
		home = r.start(1, homeMeta)
		time.Sleep(joinEvery + time.Second)
		if got := home.says() + fra.says(); got != "fra+home+" {
			t.Errorf("%q when it is back", got)
		}
		r.net.die(fra.at)
		time.Sleep(30 * time.Second)
		moved := r.start(9, relayMeta("fra"))
		time.Sleep(5 * time.Second)
		if got := home.Members(); len(got) != 1 || !got[0].Alive || got[0].At != moved.at {
			t.Errorf("%+v when it has moved", got)
		}
		fra.stop()
		moved.stop()
		home.stop()
		settle()
	})
}

// The number of clients reaches the others.
func TestClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, 0)
		home := r.start(1, homeMeta)
		fra := r.start(2, relayMeta("fra"), func(c *Config) { c.Clients = func() int { return 41 } })
		time.Sleep(2 * joinEvery)
		if got := home.Members(); len(got) != 1 || got[0].Clients != 41 {
			t.Errorf("%+v", got)
		}
		home.stop()
		fra.stop()
		settle()
	})
}

// Who has another key, or another network's label, is no member, and learns of none.
func TestStrangers(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"another key":     func(c *Config) { c.Key = Key{2} },
		"another network": func(c *Config) { c.Network = "net-2" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRing(t, 0)
				home, fra := r.start(1, homeMeta), r.start(2, relayMeta("fra"))
				stranger := r.start(3, relayMeta("ams"), change)
				time.Sleep(time.Minute)
				if got := home.says() + fra.says() + stranger.says(); got != "fra+home+" {
					t.Errorf("%q", got)
				}
				for _, m := range []*member{home, fra, stranger} {
					m.mu.Lock()
					if logs := m.logs.String(); strings.Contains(logs, r.key.Text()[:20]) || strings.Contains(logs, string(r.key[:])) || !strings.Contains(logs, "level=DEBUG") {
						t.Error("the key is in the log, or nothing is")
					}
					m.mu.Unlock()
					m.stop()
				}
				settle()
			})
		})
	}
}

// lying is a member of memberlist's own that says of itself what it likes.
type lying struct {
	*delegate
	meta []byte
}

func (l *lying) NodeMeta(int) []byte { return l.meta }

// Who has the key, and says of himself what no member may, is left out and counted; the ring goes on.
func TestHostileMeta(t *testing.T) {
	good := relayMeta("ams")
	with := func(change func([]byte)) []byte { b := good.append(nil); change(b); return b }
	for name, c := range map[string]struct {
		name string
		at   netip.AddrPort
		meta []byte
	}{
		"nothing":            {good.id(), place(3), nil},
		"another version":    {good.id(), place(3), with(func(b []byte) { b[0] = 2 })},
		"a role of no kind":  {good.id(), place(3), with(func(b []byte) { b[1] = 3 })},
		"a length too long":  {good.id(), place(3), with(func(b []byte) { b[6] = 200 })},
		"bytes behind":       {good.id(), place(3), append(good.append(nil), 'x')},
		"a name in capitals": {"relay:AMS", place(3), Meta{Role: Relay, Name: "AMS"}.append(nil)},
		"a terminal's words": {good.id(), place(3), Meta{Role: Relay, Name: "ams", Version: "\x1b[2J"}.append(nil)},
		"as long as may be":  {good.id(), place(3), bytes.Repeat([]byte{1}, memberlist.MetaMaxSize)},
		"another's name":     {"relay:zrh", place(3), good.append(nil)},
		"a public address":   {good.id(), netip.MustParseAddrPort("203.0.113.7:53"), good.append(nil)},
		"a group's address":  {good.id(), netip.MustParseAddrPort("224.0.0.1:53"), good.append(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRing(t, 0)
				home, fra := r.start(1, homeMeta), r.start(2, relayMeta("fra"))
				x := &Cluster{config: Config{
					Network: "net-1", Self: Meta{Role: Relay, Name: "ams"}, Key: r.key, Logger: slog.New(slog.DiscardHandler), Listen: c.at, transport: r.net.port(c.at),
				}, members: newMembers("nobody", true)}
				s := x.settings()
				s.Name, s.Delegate, s.Alive, s.Events = c.name, &lying{(*delegate)(x), c.meta}, nil, nil
				list, err := memberlist.Create(s)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = list.Join([]string{place(1).String()})
				time.Sleep(30 * time.Second)
				if got := home.says() + " " + fra.says(); got != "fra+ home+" {
					t.Errorf("it is a member: %q", got)
				}
				if n := home.Counts().Hostile; n == 0 {
					t.Error("it is not counted")
				}
				_ = list.Shutdown()
				fra.stop()
				home.stop()
				settle()
			})
		})
	}
}

// Members, and the changes that are told, are bounded, whatever a holder of the key makes up; who is gone makes room.
func TestMembersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMembers("coordinator:home", false)
		node := func(i int) *memberlist.Node {
			m := relayMeta(fmt.Sprintf("r%d", i))
			return &memberlist.Node{Name: m.id(), Addr: place(9).Addr().AsSlice(), Port: 1, Meta: m.append(nil)}
		}
		for i := range 10 * maxMembers {
			if s.NotifyAlive(node(i)) == nil {
				s.NotifyJoin(node(i))
			}
		}
		if n := len(s.list()); n != maxMembers || s.counts.Full != 9*maxMembers {
			t.Errorf("%d members, %d refused", n, s.counts.Full)
		}
		self := &memberlist.Node{Name: "coordinator:home", Addr: place(1).Addr().AsSlice(), Port: 1, Meta: homeMeta.append(nil)}
		if err := s.NotifyAlive(self); err != nil {
			t.Errorf("refuses itself: %v", err)
		}
		if len(s.take()) != newsBurst || s.counts.News != maxMembers-newsBurst {
			t.Errorf("%d changes were dropped", s.counts.News)
		}
		time.Sleep(time.Hour)
		s.NotifyLeave(node(7))
		if err := s.NotifyAlive(node(100000)); err != nil {
			t.Errorf("no room in place of one that is gone: %v", err)
		}
		for i := range 10000 { // one that flaps
			s.NotifyLeave(node(i % maxMembers))
			s.NotifyJoin(node(i % maxMembers))
		}
		if n := len(s.take()); n > newsBurst {
			t.Errorf("%d changes are told at once", n)
		}
	})
}

func TestOpenRefusals(t *testing.T) {
	good := Config{Network: "net-1", Self: homeMeta, Listen: place(1), Key: Key{1}}
	for name, change := range map[string]func(*Config){
		"no key":              func(c *Config) { c.Key = Key{} },
		"no network":          func(c *Config) { c.Network = "" },
		"a bad name":          func(c *Config) { c.Self.Name = "Home" },
		"no address":          func(c *Config) { c.Listen = netip.AddrPort{} },
		"every address":       func(c *Config) { c.Listen = netip.MustParseAddrPort("0.0.0.0:7946") },
		"every IPv6 address":  func(c *Config) { c.Listen, c.Public = netip.MustParseAddrPort("[::]:7946"), true },
		"a public address":    func(c *Config) { c.Listen = netip.MustParseAddrPort("203.0.113.1:7946") },
		"a mapped public one": func(c *Config) { c.Listen = netip.MustParseAddrPort("[::ffff:203.0.113.1]:7946") },
	} {
		c := good
		c.transport = newMemory(0).port(place(1))
		change(&c)
		if x, err := Open(c); err == nil {
			x.Close()
			t.Errorf("%s: opened", name)
		}
	}
}
