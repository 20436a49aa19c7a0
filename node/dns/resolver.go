package dns

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"picket.internal/coordinator/protocol"
)

const (
	// askTime bounds an answer from elsewhere, all resolvers tried.
	askTime = 5 * time.Second
	// maxAsking bounds the questions that wait for resolvers elsewhere at one time.
	maxAsking = 128
	// restTime is how long a resolver that did not answer is asked last.
	restTime = 30 * time.Second
	// maxChain bounds how many names may stand for each other.
	maxChain = 8
)

// Resolver answers questions. It is safe for concurrent use.
type Resolver struct {
	dial  Dial
	state atomic.Pointer[knowledge]
	turn  sync.Mutex // of who makes another state
}

// knowledge is what a resolver goes by at one moment. It is never changed, but for what it remembers.
type knowledge struct {
	zone   *Zone
	said   protocol.DNS
	host   []netip.AddrPort
	routes *routes // shared while said and host stay
}

// routes is who is asked about what is not the zone's.
type routes struct {
	global []*upstream            // the operator's; empty: the host's own
	split  map[string][]*upstream // by domain; empty: nobody answers
	own    []*upstream            // the host's
	cache  cache
	flight singleflight.Group
	slots  *semaphore.Weighted
	mu     sync.Mutex
	rests  map[*upstream]time.Time // by mu: since when one did not answer
}

// NewResolver makes one that knows nothing yet; dial reaches resolvers elsewhere.
func NewResolver(dial Dial) *Resolver {
	r := &Resolver{dial: dial}
	r.state.Store(&knowledge{zone: NewZone(protocol.Content{}, nil, 0), routes: newRoutes(protocol.DNS{}, nil, dial)})
	return r
}

// SetZone puts another zone in place, and what the operator says with it.
func (r *Resolver) SetZone(z *Zone, said protocol.DNS) {
	r.turn.Lock()
	defer r.turn.Unlock()
	was := r.state.Load()
	next := &knowledge{zone: z, said: said, host: was.host, routes: was.routes}
	if !sameServers(was.said, said) || !slices.Equal(was.zone.overlay, z.overlay) || was.zone.domain != z.domain {
		next.routes = newRoutes(said, was.host, r.dial)
		was.routes.close()
	}
	r.state.Store(next)
}

// SetHost tells which resolvers the host uses by itself. Listen is none of them.
func (r *Resolver) SetHost(host []netip.AddrPort) {
	host = slices.DeleteFunc(slices.Clone(host), func(a netip.AddrPort) bool { return a.Addr().Unmap() == Listen.Addr() })
	r.turn.Lock()
	defer r.turn.Unlock()
	was := r.state.Load()
	if slices.Equal(was.host, host) {
		return
	}
	was.routes.close()
	r.state.Store(&knowledge{zone: was.zone, said: was.said, host: host, routes: newRoutes(was.said, host, r.dial)})
}

func sameServers(a, b protocol.DNS) bool {
	return slices.Equal(a.Nameservers, b.Nameservers) && slices.EqualFunc(a.Split, b.Split, func(a, b protocol.Split) bool {
		return a.Domain == b.Domain && slices.Equal(a.Nameservers, b.Nameservers)
	})
}

func newRoutes(said protocol.DNS, host []netip.AddrPort, dial Dial) *routes {
	r := &routes{split: make(map[string][]*upstream), slots: semaphore.NewWeighted(maxAsking), rests: make(map[*upstream]time.Time)}
	list := func(servers []protocol.Nameserver) (out []*upstream) {
		for _, n := range servers {
			if u, err := n.Parse(); err == nil {
				out = append(out, newUpstream(u, string(n), dial))
			}
		}
		return out
	}
	r.global = list(said.Nameservers)
	for _, s := range said.Split {
		r.split[s.Domain] = list(s.Nameservers)
	}
	for _, a := range host {
		r.own = append(r.own, newUpstream(protocol.Upstream{Transport: protocol.TransportPlain, Address: a}, a.String(), dial))
	}
	return r
}

func (r *routes) close() {
	for _, u := range r.global {
		u.close()
	}
	for _, s := range r.split {
		for _, u := range s {
			u.close()
		}
	}
}

// canonical is a name as the zone has it.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Answer is the answer to a question, and who gave it, for people.
type Answer struct {
	Msg  *mdns.Msg
	From string
}

// question is what is asked, in canonical form.
type question struct {
	name   string
	qtype  uint16
	do, cd bool
}

// resolve answers q. The answer's Rcode tells of failures; it has neither id nor question, which are the caller's to set.
func (r *Resolver) resolve(ctx context.Context, q question) Answer {
	k := r.state.Load()
	out := Answer{Msg: new(mdns.Msg)}
	for range maxChain {
		a, ours := k.zone.lookup(q.name, q.qtype)
		if !ours {
			rest := k.elsewhere(ctx, q)
			rest.Msg.Answer = append(out.Msg.Answer, rest.Msg.Answer...)
			rest.From = join(out.From, rest.From)
			return rest
		}
		out.From = join(out.From, a.from)
		out.Msg.Answer = append(out.Msg.Answer, a.records...)
		out.Msg.Authoritative = true
		if a.cname == "" {
			if a.missing {
				out.Msg.Rcode = mdns.RcodeNameError
			}
			if len(a.records) == 0 {
				out.Msg.Ns = []mdns.RR{k.zone.soa(missingTTL)}
			}
			return out
		}
		q.name = canonical(a.cname)
	}
	return Answer{failure(mdns.RcodeServerFailure), "records that stand for each other in a circle"}
}

func join(a, b string) string {
	if a == "" || a == b {
		return b
	}
	return a + ", then " + b
}

func failure(rcode int) *mdns.Msg { return &mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: rcode}} }

// elsewhere asks resolvers about what is not the zone's.
func (k *knowledge) elsewhere(ctx context.Context, q question) Answer {
	if !strings.Contains(q.name, ".") && (q.qtype == mdns.TypeA || q.qtype == mdns.TypeAAAA) && len(k.routes.global) > 0 {
		// A short name that is no peer's is nobody's business but that of this host's own network.
		return Answer{failure(mdns.RcodeNameError), "this node's map"}
	}
	if top := q.name[strings.LastIndexByte(q.name, '.')+1:]; top == "localhost" || top == "onion" || top == "local" || top == "invalid" {
		return Answer{failure(mdns.RcodeNameError), "this node, because such names never are looked up (RFC 6761)"}
	}
	servers := k.routes.serversFor(q.name)
	if len(servers) == 0 {
		return Answer{failure(mdns.RcodeServerFailure), "nobody: no resolver is known for it"}
	}
	key := cacheKey(q)
	if msg, from, ok := k.routes.cache.get(key); ok {
		return Answer{msg, from + ", remembered"}
	}
	// One question at a time for all who ask the same: so a loop through resolvers that ask us comes to an end at once.
	flight := q.name + " " + mdns.TypeToString[q.qtype] + flags(q)
	done := k.routes.flight.DoChan(flight, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		return k.ask(ctx, servers, q)
	})
	select {
	case got := <-done:
		if got.Err != nil {
			return Answer{failure(mdns.RcodeServerFailure), got.Err.Error()}
		}
		a := got.Val.(Answer)
		return Answer{a.Msg.Copy(), a.From} // others were handed it as well
	case <-ctx.Done():
		return Answer{failure(mdns.RcodeServerFailure), "nobody in time"}
	}
}

func flags(q question) string {
	return map[bool]string{true: " do"}[q.do] + map[bool]string{true: " cd"}[q.cd]
}

// serversFor are those of the longest split domain that holds name, else the operator's, else the host's own.
func (r *routes) serversFor(name string) []*upstream {
	for d := name; d != ""; d = parent(d) {
		if s, ok := r.split[d]; ok {
			return s
		}
	}
	if len(r.global) > 0 {
		return r.global
	}
	return r.own
}

// ask asks servers in turn, those that did not answer lately last, until one answers.
func (k *knowledge) ask(ctx context.Context, servers []*upstream, q question) (Answer, error) {
	r := k.routes
	if !r.slots.TryAcquire(1) {
		return Answer{}, errors.New("nobody: too many questions wait for resolvers elsewhere")
	}
	defer r.slots.Release(1)
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(q.name), q.qtype)
	m.CheckingDisabled = q.cd
	m.SetEdns0(ednsSize, q.do)
	var refused Answer
	for _, u := range r.rested(servers) {
		msg, err := u.ask(ctx, m)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			r.rest(u)
			continue
		}
		if msg.Rcode != mdns.RcodeSuccess && msg.Rcode != mdns.RcodeNameError {
			refused = Answer{failure(msg.Rcode), u.text}
			continue
		}
		r.wake(u)
		k.zone.clean(msg)
		r.cache.put(cacheKey(q), msg, u.text)
		return Answer{msg, u.text}, nil
	}
	if refused.Msg != nil {
		return refused, nil
	}
	return Answer{}, errors.New("nobody: " + names(servers) + " did not answer")
}

func names(servers []*upstream) string {
	var out []string
	for _, u := range servers {
		out = append(out, u.text)
	}
	return strings.Join(out, ", ")
}

// rested is servers with those that did not answer lately last.
func (r *routes) rested(servers []*upstream) []*upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	tired := func(u *upstream) int {
		if at, ok := r.rests[u]; ok && time.Since(at) < restTime {
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(servers), func(a, b *upstream) int { return cmp.Compare(tired(a), tired(b)) })
}

func (r *routes) rest(u *upstream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rests[u] = time.Now()
}

func (r *routes) wake(u *upstream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.rests, u)
}
