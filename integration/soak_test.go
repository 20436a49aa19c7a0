//go:build linux

package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
	"picket.internal/wgtun/packet"
)

// soakPolicy always allows what is steady, and what comes and goes when it is asked to.
func soakPolicy(all bool) string {
	more := ""
	if all {
		more = `, "tcp:6000", "udp:6001"`
	}
	return `{
	"tagOwners": {"tag:db": ["alice@example.com"], "tag:app": ["alice@example.com"]},
	"grants": [{"src": ["tag:app"], "dst": ["tag:db"], "ip": ["tcp:5432", "udp:5353-5354"` + more + `]}],
}`
}

const (
	// flipEvery is how often the policy changes, but for the pauses in which flows are looked at.
	flipEvery = 200 * time.Millisecond
	// obeyed is how soon a change must show in what passes.
	obeyed = time.Second
	// soakTime is how long the flipping goes on unless PICKET_SOAK says otherwise.
	soakTime = 12 * time.Second
	// mayGrow is by how much what is alive in a process may grow after its first round. Resident memory would say nothing: it wanders by as much again as
	// is alive.
	mayGrow = 10 << 20
)

// soak is three nodes with flows under load while the policy flips.
type soak struct {
	*network
	apps    []*lab.Node
	db      *lab.Node
	steady  []watched
	fickle  *lab.Flow // over UDP, which may try for ever
	flips   int
	started map[string]lab.Usage
}

// TestPolicyChurnUnderLoad flips the policy several times a second: what both texts allow never notices, what one allows follows within a second, and
// no process grows or complains. PICKET_SOAK=10m makes it longer.
func TestPolicyChurnUnderLoad(t *testing.T) {
	lasts := soakTime
	if text := os.Getenv("PICKET_SOAK"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("PICKET_SOAK: %v", err)
		}
	}
	t.Setenv("GODEBUG", "gctrace=1") // of the processes that are started from here on
	t.Setenv("GOGC", "25")
	n := newNetwork(t, false, soakPolicy(true), "--policy-breaker", "off")
	var cancel context.CancelFunc
	n.ctx, cancel = context.WithTimeout(t.Context(), lasts+patience) // longer than other tests may have
	defer cancel()
	s := &soak{network: n, db: n.server("db", "tag:db"), apps: []*lab.Node{n.server("app1", "tag:app"), n.server("app2", "tag:app")}}
	s.begin()
	stop := s.load()
	defer stop()
	for until := time.Now().Add(lasts); time.Now().Before(until); {
		s.round()
	}
	s.end()
}

func (s *soak) begin() {
	s.t.Helper()
	for proto, ports := range map[string][]string{"tcp": {"5432", "6000"}, "udp": {"5353", "6001"}} {
		for _, port := range ports {
			_, err := s.db.Host.Serve(s.ctx, proto, "[::]:"+port)
			s.must(err)
		}
	}
	for i, app := range s.apps {
		for proto, port := range map[string]string{"tcp": "5432", "udp": "5353"} {
			s.steady = append(s.steady, watched{fmt.Sprintf("%s of app%d", proto, i+1), s.dial(app, proto, port)})
		}
	}
	s.fickle = s.dial(s.apps[0], "udp", "6001")
}

func (s *soak) dial(from *lab.Node, proto, port string) *lab.Flow {
	s.t.Helper()
	f, err := from.Dial(s.ctx, proto, net.JoinHostPort(s.address(s.db, proto == "udp"), port))
	s.must(err)
	return f
}

// load sends datagrams of 1200 bytes from each app, some 2000 a second, until it is stopped.
func (s *soak) load() (stop func()) {
	s.t.Helper()
	done, ended := make(chan struct{}), make(chan error, len(s.apps))
	for _, app := range s.apps {
		raw, err := app.Host.Raw(app.Interface())
		s.must(err)
		from, to := s.address(app, false), s.address(s.db, false)
		go func() { ended <- pour(raw, from, to, done) }()
	}
	return func() {
		close(done)
		for range s.apps {
			s.must(<-ended)
		}
	}
}

// round flips the policy for a while, and then looks at each of its two states for longer.
func (s *soak) round() {
	s.t.Helper()
	for i := range 8 {
		next := time.Now().Add(flipEvery)
		s.flip(i%2 == 1)
		time.Sleep(time.Until(next))
	}
	s.enforce(true)
	allowed := time.Now()
	f := s.dial(s.apps[1], "tcp", "6000")
	for !s.fickle.LastEcho().After(allowed) && time.Since(allowed) < obeyed {
		time.Sleep(2 * time.Millisecond)
	}
	if took := time.Since(allowed); took >= obeyed {
		s.t.Errorf("what is allowed again does not pass after %v", took)
	}
	s.enforce(false)
	denied := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, obeyed)
	defer cancel()
	if _, err := f.WaitCut(ctx, denied); err != nil {
		s.t.Errorf("a connection that is not allowed any more: %v", err)
	}
	f.Kill()
	time.Sleep(time.Until(denied.Add(obeyed + 200*time.Millisecond)))
	if last := s.fickle.LastEcho(); last.After(denied.Add(obeyed)) {
		s.t.Errorf("datagrams pass %v after they were denied", last.Sub(denied))
	}
	if s.started == nil { // whatever a process needs for this it has by now
		s.started = s.usage()
	}
}

// flip commits one of the two texts.
func (s *soak) flip(all bool) {
	s.t.Helper()
	s.commit(soakPolicy(all))
	s.flips++
}

// enforce commits one and waits until it holds everywhere.
func (s *soak) enforce(all bool) {
	s.t.Helper()
	s.flip(all)
	s.operate("policy", "reload", "--wait")
}

func (s *soak) programs() map[string]*lab.Process {
	return map[string]*lab.Process{"coordinator": s.coordinator.Process, "db": s.db.Process, "app1": s.apps[0].Process, "app2": s.apps[1].Process}
}

func (s *soak) usage() map[string]lab.Usage {
	s.t.Helper()
	out := map[string]lab.Usage{}
	for name, p := range s.programs() {
		u, err := p.Usage()
		s.must(err)
		out[name] = u
	}
	return out
}

func (s *soak) end() {
	s.t.Helper()
	var g struct{ Generation uint64 }
	s.must(s.apps[0].JSON(s.ctx, &g, "status"))
	s.t.Logf("%d policies, generation %d", s.flips, g.Generation)
	for _, w := range s.steady {
		f := w.probe.(*lab.Flow)
		if !f.Ended().IsZero() {
			s.t.Errorf("%s, which every policy allows, was interrupted: %s", w.name, f.Reason())
		}
		if gap := f.LongestGap(); gap > longestGap {
			s.t.Errorf("%s, which every policy allows, stood still for %v", w.name, gap)
		}
	}
	for name, now := range s.usage() {
		then := s.started[name]
		s.t.Logf("%s: %d files, %d threads, %d MiB; at first %d, %d, %d",
			name, total(now.Files), now.Threads, now.Heap>>20, total(then.Files), then.Threads, then.Heap>>20)
		if total(now.Files) > total(then.Files)+4 || now.Threads > then.Threads+4 || now.Heap > then.Heap+mayGrow || now.Heap == 0 {
			s.t.Errorf("%s grows: %+v, at first %+v", name, now, then)
		}
	}
	for name, p := range s.programs() {
		for line := range strings.Lines(p.Output()) {
			if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
				s.t.Errorf("%s: %s", name, line)
			}
		}
	}
	if out := s.operate("audit", "list", "--limit", "1000"); strings.Contains(out, "egress-bypass") {
		s.t.Error("honest nodes are accused of egress-bypass while the policy changes")
	}
}

func total(files map[string]int) (n int) {
	for _, count := range files {
		n += count
	}
	return n
}

// pour sends datagrams to a port where nobody listens until done is closed.
func pour(raw *lab.Raw, from, to string, done <-chan struct{}) error {
	e := &ends{from: plain(from), to: plain(to), next: 20_000}
	source, target := e.source(), e.target(5354)
	for {
		select {
		case <-done:
			return nil
		case <-time.After(10 * time.Millisecond):
		}
		for range 20 {
			if err := raw.Send(rawIP(e.from, e.to, packet.ProtoUDP, udpPart(source, target, noise(1200)))); err != nil {
				return err
			}
		}
		raw.Take() // or what is captured would be kept
	}
}
