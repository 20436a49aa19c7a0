package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"

	"picket.internal/coordinator/protocol"
)

// Config of a Service.
type Config struct {
	Host   Host           // NoHost where nothing of the host is to be changed
	Listen netip.AddrPort // the zero one: programs of the host are not answered, only Query is
	Dial   Dial
	Logger *slog.Logger
}

// Wanted is what a Service is to do. The zero Wanted is nothing: the host is as it was.
type Wanted struct {
	On        bool
	Zone      *Zone
	Said      protocol.DNS
	Interface string // the tunnel's
}

// Status is what a Service does.
type Status struct {
	On       bool
	Listen   netip.AddrPort // zero when programs of the host are not answered
	UDPOnly  bool           // another program has the TCP port at every address
	Domain   string
	Host     HostState
	Upstream []string         // who is asked about all names that nothing else is said of
	Split    []protocol.Split // and about some
	Search   []string
	Records  int
	Trouble  string
}

// Service keeps resolver and host to what is wanted. It is safe for concurrent use.
type Service struct {
	Config
	resolver *Resolver
	wake     chan struct{} // of one

	mu     sync.Mutex
	wanted Wanted
	status Status

	// owned by Run
	serving *serving
	applied bool // the host was changed, or may have been
}

// serving is a server that runs.
type serving struct {
	stop    context.CancelFunc
	done    chan struct{}
	udpOnly bool
}

// tendEvery is how often the host is looked at.
const tendEvery = 5 * time.Second

// NewService makes a Service; it starts nothing.
func NewService(c Config) *Service {
	return &Service{Config: c, resolver: NewResolver(c.Dial), wake: make(chan struct{}, 1)}
}

// Set says what is wanted from now on. It waits for nothing: names are right at once, the host follows.
func (s *Service) Set(w Wanted) {
	s.mu.Lock()
	s.wanted = w
	if w.On {
		s.resolver.SetZone(w.Zone, w.Said)
	} else {
		s.resolver.SetZone(NewZone(protocol.Content{}, nil, 0), protocol.DNS{})
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run does it until ctx ends, then takes everything back; it returns nil.
func (s *Service) Run(ctx context.Context) error {
	s.restoreLeft(ctx)
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.off()
			return nil
		case <-s.wake:
			s.tend(ctx, true)
		case <-tick.C:
			s.tend(ctx, false)
		}
	}
}

// restoreLeft takes back what an agent that was killed left on the host. The address shows that none is alive.
func (s *Service) restoreLeft(ctx context.Context) {
	if !s.Listen.IsValid() {
		return
	}
	l, err := listen(ctx, s.Listen.String(), s.resolver, s.Logger)
	if err != nil {
		return
	}
	defer l.close()
	if err := s.Host.Restore(); err != nil {
		s.Logger.Warn("the host's resolver settings could not be put back", "reason", err)
	}
}

// RestoreHost takes back what an agent that was killed left on this machine. It fails when one is alive.
func RestoreHost(ctx context.Context, logger *slog.Logger) error {
	l, err := listen(ctx, Listen.String(), nil, logger)
	if err != nil {
		return err
	}
	defer l.close()
	return OpenHost(HostConfig{Logger: logger}).Restore()
}

// tend brings things to what is wanted; changed says that it may be new.
func (s *Service) tend(ctx context.Context, changed bool) {
	s.mu.Lock()
	w := s.wanted
	s.mu.Unlock()
	st := Status{On: w.On}
	if !w.On {
		s.off()
		s.publish(st)
		return
	}
	s.resolver.SetHost(s.Host.Upstreams())
	if s.Listen.IsValid() {
		if st.Trouble = s.serve(ctx); st.Trouble == "" {
			k := s.resolver.state.Load()
			st.Listen, st.UDPOnly, s.applied = s.Listen, s.serving.udpOnly, true
			st.Host = s.Host.Apply(k.hostSettings(w.Interface))
			s.resolver.SetHost(s.Host.Upstreams()) // known only now, where something stands in their place
			if changed {
				s.Host.Flush()
			}
		}
	} else {
		st.Host = s.Host.Apply(HostSettings{})
	}
	s.describe(&st)
	s.publish(st)
}

// serve starts the server unless it runs. It returns what stands in the way.
func (s *Service) serve(ctx context.Context) string {
	if s.serving != nil {
		select {
		case <-s.serving.done:
			s.serving = nil
		default:
			return ""
		}
	}
	server, err := listen(ctx, s.Listen.String(), s.resolver, s.Logger)
	if err != nil {
		return err.Error()
	}
	sctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // off ends it, after the host was taken back
	r := &serving{stop, make(chan struct{}), server.tcp == nil}
	go func() {
		defer close(r.done)
		if err := server.Run(sctx); err != nil {
			s.Logger.Error("the resolver stopped: it is started again", "reason", err)
		}
	}()
	s.serving = r
	return ""
}

// off takes the host back first: it must not ask where nobody answers.
func (s *Service) off() {
	if s.applied {
		if err := s.Host.Restore(); err != nil {
			s.Logger.Warn("the host's resolver settings could not be put back", "reason", err)
		}
		s.applied = false
	}
	if s.serving != nil {
		s.serving.stop()
		<-s.serving.done
		s.serving = nil
	}
}

func (s *Service) describe(st *Status) {
	k := s.resolver.state.Load()
	st.Domain, st.Split, st.Search, st.Records = k.zone.domain, k.said.Split, k.said.Search, len(k.said.Records)
	servers := k.routes.global
	if len(servers) == 0 {
		servers = k.routes.own
	}
	for _, u := range servers {
		st.Upstream = append(st.Upstream, u.text)
	}
}

func (s *Service) publish(st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := st.Host.Trouble; t != "" && t != s.status.Host.Trouble {
		s.Logger.Warn("names are not resolved as they should be", "reason", t)
	}
	if t := st.Trouble; t != "" && t != s.status.Trouble {
		s.Logger.Warn("names are not resolved", "reason", t)
	}
	s.status = st
}

// Status is what the Service does, as of a moment ago.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Reply is the answer to a Query.
type Reply struct {
	Name    string   // whole
	Status  string   // "NOERROR", "NXDOMAIN", "SERVFAIL", …
	Records []string // each as in a zone file
	From    string   // who gave it
}

// ErrType is of a Query for a type that is none.
var ErrType = errors.New("no type of record")

// Query asks as a program of the host would: for a name, which may be an address whose name is wanted, and a type such as "A".
func (s *Service) Query(ctx context.Context, name, qtype string) (Reply, error) {
	s.mu.Lock()
	on := s.wanted.On
	s.mu.Unlock()
	if !on {
		return Reply{}, errors.New("names are not resolved now: the tunnel is down, or picket up --dns=off was said")
	}
	t, known := mdns.StringToType[qtype]
	if !known || t == mdns.TypeNone {
		return Reply{}, fmt.Errorf("%.20q is %w: A, AAAA, CNAME, MX, PTR, SRV and TXT are some", qtype, ErrType)
	}
	if a, err := netip.ParseAddr(name); err == nil {
		if t != mdns.TypePTR {
			return Reply{}, errors.New("for an address there is only the type PTR: its name")
		}
		name = reverseName(a.WithZone(""))
	}
	if _, ok := mdns.IsDomainName(name); !ok || len(name) > 253 {
		return Reply{}, fmt.Errorf("%.80q is no name", name)
	}
	q := new(mdns.Msg)
	q.SetQuestion(mdns.Fqdn(name), t)
	a := s.resolver.Exchange(ctx, q)
	r := Reply{Name: mdns.Fqdn(name), Status: mdns.RcodeToString[a.Msg.Rcode], From: a.From}
	for _, rr := range a.Msg.Answer {
		r.Records = append(r.Records, rr.String())
	}
	return r, nil
}

// Addresses are those of a name that is this node's to answer, as far as it has any; for the proxies.
func (s *Service) Addresses(name string) []netip.Addr {
	k := s.resolver.state.Load()
	name = canonical(name)
	for range maxChain {
		a, _ := k.zone.lookup(name, mdns.TypeANY)
		if len(a.records) == 0 {
			return nil
		}
		if c, ok := a.records[0].(*mdns.CNAME); ok {
			name = canonical(c.Target)
			continue
		}
		var out []netip.Addr
		for _, rr := range a.records {
			out = append(out, addressesOf(rr)...)
		}
		return slices.Clip(out)
	}
	return nil
}
