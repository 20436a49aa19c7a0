package path

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// Reflectors are asked from the tunnel's own socket, because an address translator lends each inside port another outside one. A question is
// asked again after 0.5 and 1 s, and while we want to be reachable every 20 to 25 s, which keeps the lent port ours; sooner for a peer in use that
// has just lost its direct way, since the translator may have restarted and lend us another port now.
const (
	reflectEvery   = 25 * time.Second
	reflectJitter  = 5 * time.Second
	reflectRetry   = 500 * time.Millisecond
	reflectTries   = 3
	reflectDoubt   = 5 * time.Second // least age of the newest question when peers have it asked again
	reflectionLife = time.Minute     // of an answer: two questions unanswered
	maxReflectors  = 16
	hairpinLife    = 2 * time.Second
)

// Reflector is one to ask.
type Reflector struct {
	At netip.AddrPort
	// Relay is the name of the relay whose it is; empty: the coordinator's own, whose word alone is enough to tell peers of an address.
	Relay string
}

// Reflection is what one reflector says.
type Reflection struct {
	Reflector netip.AddrPort
	Relay     string         // whose it is; empty: the coordinator's
	Seen      netip.AddrPort // our port as the reflector sees it; zero: it has not answered lately
	Latency   time.Duration  // of the newest answer; 0 without one
	Age       time.Duration  // of the newest answer
	Failed    bool           // the newest question could not even be sent: there is no route
}

// mirror is one reflector.
type mirror struct {
	at          netip.AddrPort
	relay       string
	ep          conn.Endpoint
	transaction transaction // of the newest question
	pending     bool        // it is not answered yet
	sent        instant
	tries       int     // since the round began
	due         instant // next question; 0 when none is planned
	failed      bool

	seen     netip.AddrPort
	answered instant
	latency  time.Duration
}

// mirrors are the reflectors, and what they say. Its lock is never held together with another of a Bind.
type mirrors struct {
	wake    chan struct{} // room for one
	doubted atomic.Bool   // by a peer without direct way

	mu      sync.Mutex
	list    []*mirror
	keep    bool
	told    []netip.AddrPort // what Reflexive was when Reflected was last called
	hairpin hairpin
}

// SetReflectors replaces the reflectors that are asked, of which the first 16 with an address of their own are used. keep asks them again and again;
// without it they are asked when Reflect is called.
func (b *Bind) SetReflectors(reflectors []Reflector, keep bool) {
	m := &b.mirrors
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*mirror
	for _, r := range reflectors {
		allowed, _ := b.normal([]netip.AddrPort{r.At})
		if len(allowed) == 0 || len(list) == maxReflectors || slices.ContainsFunc(list, func(x *mirror) bool { return x.at == allowed[0] }) {
			continue
		}
		at := allowed[0]
		if i := slices.IndexFunc(m.list, func(x *mirror) bool { return x.at == at && x.relay == r.Relay }); i >= 0 {
			list = append(list, m.list[i])
		} else if ep, err := b.inner.ParseEndpoint(at.String()); err == nil {
			list = append(list, &mirror{at: at, relay: r.Relay, ep: ep, due: b.now()})
		}
	}
	if keep && !m.keep {
		for _, x := range list {
			x.due = b.now()
		}
	}
	m.list, m.keep = list, keep
	m.hasten()
}

// Reflect asks all reflectors now: for a changed network, and for who waits to see what they say.
func (b *Bind) Reflect() {
	m := &b.mirrors
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.list {
		x.tries, x.due = 0, b.now()
	}
	m.hasten()
}

// doubt has the reflectors asked soon, if they are asked at all. It takes no lock.
func (m *mirrors) doubt() {
	m.doubted.Store(true)
	m.hasten()
}

func (m *mirrors) hasten() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Reflections lists what each reflector says.
func (b *Bind) Reflections() []Reflection {
	m := &b.mirrors
	m.mu.Lock()
	defer m.mu.Unlock()
	now := b.now()
	out := make([]Reflection, len(m.list))
	for i, x := range m.list {
		out[i] = Reflection{Reflector: x.at, Relay: x.relay, Failed: x.failed}
		if x.fresh(now) {
			out[i].Seen, out[i].Latency, out[i].Age = x.seen, x.latency, now-x.answered
		}
	}
	return out
}

func (x *mirror) fresh(now instant) bool { return x.answered != 0 && now-x.answered < reflectionLife }

// Reflexive lists where reflectors see us, for peers to be told. Where those of the coordinator see us at different ports, each destination is lent another
// one, and no port of these is of use to a third; then only one that is our own port is listed, which a router may have been told to forward.
// A relay is trusted with less: what it says is listed if another relay says the very same, and takes nothing away. So one that lies
// has our peers ping nobody.
func (b *Bind) Reflexive() []netip.AddrPort {
	m := &b.mirrors
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reflexiveLocked(b.now(), b.LocalPort())
}

func (m *mirrors) reflexiveLocked(now instant, port uint16) (out []netip.AddrPort) {
	for _, is4 := range []bool{true, false} {
		var seen, agreed []netip.AddrPort
		for _, x := range m.list {
			switch {
			case !x.fresh(now) || x.seen.Addr().Is4() != is4:
			case x.relay == "" && !slices.Contains(seen, x.seen):
				seen = append(seen, x.seen)
			case x.relay != "" && !slices.Contains(agreed, x.seen) && m.seconded(x, now):
				agreed = append(agreed, x.seen)
			}
		}
		if len(seen) > 1 {
			seen = slices.DeleteFunc(seen, func(a netip.AddrPort) bool { return a.Port() != port })
		}
		out = append(out, seen...)
		out = append(out, slices.DeleteFunc(agreed, func(a netip.AddrPort) bool { return slices.Contains(seen, a) })...)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// seconded reports whether another relay than x's says the very same.
func (m *mirrors) seconded(x *mirror, now instant) bool {
	return slices.ContainsFunc(m.list, func(y *mirror) bool {
		return y.relay != "" && y.relay != x.relay && y.at.Addr() != x.at.Addr() && y.fresh(now) && y.seen == x.seen
	})
}

// RunReflect asks reflectors until ctx ends, and then returns nil. Call it once.
func (b *Bind) RunReflect(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-b.mirrors.wake:
		}
		wait := b.askMirrors()
		b.tellReflected()
		if wait >= 0 {
			timer.Reset(wait)
		}
	}
}

// askMirrors sends the questions that are due, and returns how long until the next; -1 when none is planned.
func (b *Bind) askMirrors() (wait time.Duration) {
	m := &b.mirrors
	m.mu.Lock()
	now, open := b.now(), b.port.Load() != 0
	doubted := m.keep && m.doubted.Swap(false)
	var ask []*mirror
	for _, x := range m.list {
		if doubted && now-x.sent >= reflectDoubt {
			x.tries, x.due = 0, now
		}
		if open && x.due != 0 && now >= x.due {
			x.departLocked(now, m.keep)
			ask = append(ask, x)
		}
	}
	m.mu.Unlock()
	for _, x := range ask {
		err := b.inner.Send([][]byte{question(x.transaction)}, x.ep) // only this goroutine changes the transaction
		m.mu.Lock()
		x.failed = err != nil
		m.mu.Unlock()
	}
	if !open {
		return -1 // Open wakes us
	}
	return m.next(now)
}

// departLocked notes a question and plans the next.
func (x *mirror) departLocked(now instant, keep bool) {
	if x.tries == 0 { // a repetition is the same question, so that a slow answer to the first counts
		x.transaction = newTransaction()
	}
	x.pending, x.sent = true, now
	x.tries++
	switch {
	case x.tries < reflectTries:
		x.due = now + reflectRetry<<(x.tries-1)
	case keep:
		x.rest(now)
	default:
		x.due, x.tries = 0, 0
	}
}

// rest plans the next round.
func (x *mirror) rest(now instant) {
	x.tries, x.due = 0, now+reflectEvery-rand.N(reflectJitter)
}

func (m *mirrors) next(now instant) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := instant(-1)
	for _, x := range m.list {
		for _, at := range []instant{x.due, x.answered + reflectionLife} { // the latter to tell that an answer is too old
			if at > now && (next < 0 || at < next) {
				next = at
			}
		}
	}
	if next < 0 {
		return -1
	}
	return next - now
}

// takeForeign takes what is neither a probe nor WireGuard's: a reflector's answer, or nothing of ours. It neither sends nor blocks.
func (b *Bind) takeForeign(datagram []byte, from netip.AddrPort) {
	kind, t, ok := stunKind(datagram)
	switch {
	case !ok:
		b.drop(DropForeign, 1)
		return
	case kind == stunRequest && b.mirrors.hairpin.take(t):
		return
	case kind != stunSuccess:
		b.drop(DropForeign, 1)
		return
	}
	seen, ok := mapped(datagram)
	if !ok || !b.mayProbe(seen) || !b.landMirror(from, t, seen) {
		b.drop(DropReflection, 1)
		return
	}
	b.tellReflected()
}

// landMirror takes an answer if it comes from the very reflector that was asked, to its newest question, in time, and once.
func (b *Bind) landMirror(from netip.AddrPort, t transaction, seen netip.AddrPort) bool {
	m := &b.mirrors
	m.mu.Lock()
	defer m.mu.Unlock()
	now := b.now()
	i := slices.IndexFunc(m.list, func(x *mirror) bool { return x.at == from })
	if i < 0 {
		return false
	}
	x := m.list[i]
	if !x.pending || x.transaction != t || now-x.sent > answerLife || seen.Addr().Is4() != x.at.Addr().Is4() {
		return false
	}
	x.pending, x.failed = false, false
	x.seen, x.answered, x.latency = seen, now, now-x.sent
	if x.due != 0 && m.keep {
		x.rest(now)
	} else {
		x.tries, x.due = 0, 0
	}
	return true
}

// tellReflected calls Config.Reflected if there is something new to say.
func (b *Bind) tellReflected() {
	m := &b.mirrors
	m.mu.Lock()
	now := m.reflexiveLocked(b.now(), b.LocalPort())
	same := slices.Equal(now, m.told)
	m.told = now
	m.mu.Unlock()
	if !same && b.config.Reflected != nil {
		b.config.Reflected()
	}
}

// hairpin waits for a question that we sent to ourselves by our outside address.
type hairpin struct {
	mu          sync.Mutex
	transaction transaction
	came        chan struct{} // nil: nobody waits
}

func (h *hairpin) take(t transaction) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.came == nil || h.transaction != t {
		return false
	}
	close(h.came)
	h.came = nil
	return true
}

// Hairpin reports whether what we send to an outside address of ours comes back in, within 2 s at most. One call at a time is of use.
func (b *Bind) Hairpin(ctx context.Context, own netip.AddrPort) bool {
	ep, err := b.inner.ParseEndpoint(own.String())
	if err != nil || !b.mayProbe(own) {
		return false
	}
	h := &b.mirrors.hairpin
	came := make(chan struct{})
	h.mu.Lock()
	h.transaction, h.came = newTransaction(), came
	datagram := question(h.transaction)
	h.mu.Unlock()
	if b.inner.Send([][]byte{datagram}, ep) != nil {
		return false
	}
	timer := time.NewTimer(hairpinLife)
	defer timer.Stop()
	select {
	case <-came:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
