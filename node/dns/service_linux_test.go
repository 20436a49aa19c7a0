package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"picket.internal/coordinator/protocol"
)

// recorder is a Host that notes what is done to it, and whether the resolver answered then.
type recorder struct {
	mu    sync.Mutex
	calls []string
	at    string
}

func (r *recorder) note(call string) {
	if !answersAt(r.at) {
		call += " with nobody answering"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.calls) == 0 || r.calls[len(r.calls)-1] != call {
		r.calls = append(r.calls, call)
	}
}

func (r *recorder) Apply(HostSettings) HostState {
	r.note("apply")
	return HostState{Mode: "recorder"}
}
func (r *recorder) Restore() error              { r.note("restore"); return nil }
func (r *recorder) Upstreams() []netip.AddrPort { return nil }
func (r *recorder) Flush()                      {}

func (r *recorder) took() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.calls, ", ")
}

func answersAt(at string) bool {
	c := &mdns.Client{Timeout: 500 * time.Millisecond}
	q := new(mdns.Msg)
	q.SetQuestion("corp.internal.", mdns.TypeSOA)
	_, _, err := c.Exchange(q, at)
	return err == nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

// free is an address of loopback that nobody answers at.
func free(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// TestServiceOrder: the host is told only of a resolver that answers, and taken back before that ends.
func TestServiceOrder(t *testing.T) {
	at := free(t)
	h := &recorder{at: at.String()}
	s := NewService(Config{Host: h, Listen: at, Dial: nobody(t), Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	on := Wanted{On: true, Zone: zone(), Said: protocol.DNS{}, Interface: "lo"}
	s.Set(on)
	eventually(t, "on", func() bool { return s.Status().Host.Mode == "recorder" })
	if st := s.Status(); st.Domain != "corp.internal" || st.Listen != at {
		t.Errorf("%+v", st)
	}
	s.Set(Wanted{})
	if _, err := s.Query(t.Context(), "db", "A"); err == nil {
		t.Error("names are resolved although they should not be")
	}
	eventually(t, "off", func() bool { return !s.Status().On && !answersAt(at.String()) })
	s.Set(on)
	eventually(t, "on again", func() bool { return s.Status().Host.Mode == "recorder" && answersAt(at.String()) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	// What was left by an earlier agent comes first: then nobody answers yet.
	if got, want := h.took(), "restore with nobody answering, apply, restore, apply, restore"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestServiceBesideAnother: while another agent answers, the host is its own, and stays as it is.
func TestServiceBesideAnother(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	dir := root(t, "nameserver 192.0.2.1\n")
	openHost(t, dir).Apply(wanted)
	before := trace(t, filepath.Join(dir, "etc"))
	s := NewService(Config{
		Host: openHost(t, dir), Listen: netip.MustParseAddrPort(other.LocalAddr().String()), Dial: nobody(t), Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	s.Set(Wanted{On: true, Zone: zone(), Interface: "lo"})
	eventually(t, "trouble", func() bool { return strings.Contains(s.Status().Trouble, "another agent") })
	cancel()
	<-done
	if d := trace(t, filepath.Join(dir, "etc")); d != before {
		t.Errorf("before:\n%safter:\n%s", before, d)
	}
}

func TestQuery(t *testing.T) {
	s := NewService(Config{Host: NoHost(""), Dial: nobody(t), Logger: slog.New(slog.DiscardHandler)})
	s.Set(Wanted{On: true, Zone: zone()})
	for _, c := range []struct{ name, qtype, want string }{
		{"db", "A", "NOERROR 100.64.0.2 the peer db"},
		{"100.64.0.2", "PTR", "NOERROR db.corp.internal. this node's map"},
		{"pg.example.net", "AAAA", "NOERROR fd70::2 a record of the network's operator, then the peer db"},
		{"nosuch.corp.internal", "A", "NXDOMAIN  this node's map"},
	} {
		r, err := s.Query(t.Context(), c.name, c.qtype)
		last := ""
		if len(r.Records) > 0 {
			f := strings.Fields(r.Records[len(r.Records)-1])
			last = f[len(f)-1]
		}
		if got := r.Status + " " + last + " " + r.From; err != nil || got != c.want {
			t.Errorf("%s %s: %s, %v, want %s", c.name, c.qtype, got, err, c.want)
		}
	}
	for _, bad := range [][2]string{{"db", "X"}, {"db", ""}, {"db", "None"}, {"100.64.0.2", "A"}, {strings.Repeat("a", 64), "A"}, {strings.Repeat("a.", 200), "A"}} {
		if _, err := s.Query(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("%q is asked", bad)
		}
	}
	if a := s.Addresses("PG.example.net."); len(a) != 2 || a[0] != netip.MustParseAddr("100.64.0.2") {
		t.Errorf("%v", a)
	}
	for _, name := range []string{"loop1.example.net", "www.example.org", "nosuch", ""} {
		if a := s.Addresses(name); len(a) > 0 {
			t.Errorf("%q: %v", name, a)
		}
	}
}
