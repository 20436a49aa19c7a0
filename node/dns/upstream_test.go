package dns

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

type netConn = net.Conn

// dialFunc is a Dial that reaches nobody, and tells.
func dialFunc(tell func(network string, to netip.AddrPort)) Dial {
	return func(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		tell(network, to)
		return nil, errors.New("unreachable")
	}
}

// elsewhere is a resolver of the test's: what it answers, by UDP and TCP, and how often it was asked.
type elsewhere struct {
	at       netip.AddrPort
	udp, tcp atomic.Int32
}

// listenBoth listens at one free port by UDP and TCP. One that somebody else has by UDP is passed over.
func listenBoth(t *testing.T, lc net.ListenConfig, addr string) (net.PacketConn, net.Listener) {
	t.Helper()
	for try := 0; ; try++ {
		l, err := lc.Listen(t.Context(), "tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		pc, err := lc.ListenPacket(t.Context(), "udp4", l.Addr().String())
		if err == nil {
			t.Cleanup(func() { pc.Close(); l.Close() })
			return pc, l
		}
		l.Close()
		if try == 20 {
			t.Fatal(err)
		}
	}
}

// startElsewhere answers with what answer returns; nil is silence.
func startElsewhere(t *testing.T, answer func(q *mdns.Msg, network string) *mdns.Msg) *elsewhere {
	t.Helper()
	pc, l := listenBoth(t, net.ListenConfig{}, "127.0.0.1:0")
	e := &elsewhere{at: netip.MustParseAddrPort(pc.LocalAddr().String())}
	handler := func(network string, count *atomic.Int32) mdns.Handler {
		return mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			count.Add(1)
			if m := answer(q, network); m != nil {
				_ = w.WriteMsg(m)
			}
		})
	}
	for _, s := range []*mdns.Server{{PacketConn: pc, Handler: handler("udp", &e.udp)}, {Listener: l, Handler: handler("tcp", &e.tcp)}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return e
}

// says answers every question with records.
func says(records ...string) func(q *mdns.Msg, network string) *mdns.Msg {
	return func(q *mdns.Msg, _ string) *mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		for _, text := range records {
			rr, err := mdns.NewRR(strings.ReplaceAll(text, "@", q.Question[0].Name))
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		return m
	}
}

func dialReal(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}

// resolverFor asks the servers given as those of the host.
func resolverFor(servers ...*elsewhere) *Resolver {
	r := NewResolver(dialReal)
	r.SetZone(zone(), protocol.DNS{})
	var at []netip.AddrPort
	for _, s := range servers {
		at = append(at, s.at)
	}
	r.SetHost(at)
	return r
}

func TestUpstreamAnswers(t *testing.T) {
	e := startElsewhere(t, says("@ 60 IN A 192.0.2.7"))
	r := resolverFor(e)
	for range 3 {
		if got := asked(t, r, "www.example.org.", mdns.TypeA); got != "NOERROR, www.example.org. A 192.0.2.7" {
			t.Error(got)
		}
	}
	if e.udp.Load() != 1 {
		t.Errorf("%d questions: the second should have been remembered", e.udp.Load())
	}
}

// TestUpstreamForged: answers with another id, another question or other capitals than were sent are not taken; TCP then says what is right.
func TestUpstreamForged(t *testing.T) {
	for what, forge := range map[string]func(*mdns.Msg){
		"another id":      func(m *mdns.Msg) { m.Id++ },
		"another name":    func(m *mdns.Msg) { m.Question[0].Name = "evil.example." },
		"another type":    func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAAAA },
		"other capitals":  func(m *mdns.Msg) { m.Question[0].Name = swapCase(m.Question[0].Name) },
		"no question":     func(m *mdns.Msg) { m.Question = nil },
		"a question back": func(m *mdns.Msg) { m.Response = false },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			e := startElsewhere(t, func(q *mdns.Msg, network string) *mdns.Msg {
				if network == "tcp" {
					return says("@ 60 IN A 192.0.2.7")(q, network)
				}
				m := says("@ 60 IN A 192.0.2.66")(q, network)
				forge(m)
				return m
			})
			if got := asked(t, resolverFor(e), "www.example.org.", mdns.TypeA); got != "NOERROR, www.example.org. A 192.0.2.7" {
				t.Error(got)
			}
		})
	}
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

// TestUpstreamQuestions: each has an id, capitals and a port of its own.
func TestUpstreamQuestions(t *testing.T) {
	var mu sync.Mutex
	ids, names := map[uint16]bool{}, map[string]bool{}
	e := startElsewhere(t, func(q *mdns.Msg, _ string) *mdns.Msg {
		mu.Lock()
		defer mu.Unlock()
		ids[q.Id], names[q.Question[0].Name] = true, true
		return new(mdns.Msg).SetReply(q) // says no without an SOA: it is not remembered
	})
	r := resolverFor(e)
	for range 20 {
		asked(t, r, "a-name-with-many-letters.example.org.", mdns.TypeA)
	}
	mu.Lock() // the network orders nothing
	defer mu.Unlock()
	if len(ids) < 19 || len(names) < 19 {
		t.Errorf("%d ids and %d ways to write the name in 20 questions", len(ids), len(names))
	}
}

func TestUpstreamTruncated(t *testing.T) {
	e := startElsewhere(t, func(q *mdns.Msg, network string) *mdns.Msg {
		m := says("@ 60 IN A 192.0.2.7")(q, network)
		if network == "udp" {
			m.Truncated, m.Answer = true, nil
		}
		return m
	})
	if got := asked(t, resolverFor(e), "www.example.org.", mdns.TypeA); got != "NOERROR, www.example.org. A 192.0.2.7" {
		t.Error(got)
	}
}

func TestUpstreamFailover(t *testing.T) {
	silent := startElsewhere(t, func(*mdns.Msg, string) *mdns.Msg { return nil })
	broken := startElsewhere(t, func(q *mdns.Msg, _ string) *mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		m.Rcode = mdns.RcodeServerFailure
		return m
	})
	good := startElsewhere(t, says("@ 0 IN A 192.0.2.7"))
	r := resolverFor(silent, broken, good)
	for range 2 {
		if got := asked(t, r, "www.example.org.", mdns.TypeA); got != "NOERROR, www.example.org. A 192.0.2.7" {
			t.Error(got)
		}
	}
	if silent.udp.Load() != 1 {
		t.Errorf("who does not answer was asked %d times first", silent.udp.Load())
	}
	if got := asked(t, resolverFor(broken), "www.example.org.", mdns.TypeA); got != "SERVFAIL" {
		t.Error(got)
	}
}

// TestRebinding: no answer from elsewhere leads into the overlay, or speaks for the network's names.
func TestRebinding(t *testing.T) {
	for _, record := range []string{
		"@ 60 IN A 100.64.0.2", "@ 60 IN AAAA fd70::2", "@ 60 IN AAAA ::ffff:100.64.0.2", "db.corp.internal. 60 IN A 192.0.2.66", "pg.example.net. 60 IN A 192.0.2.66",
		"@ 60 IN HTTPS 1 . ipv4hint=100.64.0.2", "@ 60 IN SVCB 1 . ipv6hint=fd70::2", "@ 60 CH A 192.0.2.1",
	} {
		e := startElsewhere(t, says(record, "@ 60 IN TXT kept"))
		r := resolverFor(e)
		for range 2 { // the second is remembered
			q := new(mdns.Msg)
			q.SetQuestion("www.example.org.", mdns.TypeA)
			a := r.Exchange(t.Context(), q)
			if len(a.Msg.Answer) != 1 || a.Msg.Answer[0].Header().Rrtype != mdns.TypeTXT {
				t.Errorf("%s: %v", record, a.Msg.Answer)
			}
		}
	}
}

// TestOwnNamesStayHere: no question about the network's names or addresses leaves this node, short names only to the host's own resolvers.
func TestOwnNamesStayHere(t *testing.T) {
	e := startElsewhere(t, says("@ 60 IN A 192.0.2.66"))
	r := resolverFor(e)
	for _, name := range []string{"secret.corp.internal.", "x.y.corp.internal.", "9.0.64.100.in-addr.arpa.", "CORP.internal."} {
		asked(t, r, name, mdns.TypeA)
	}
	if n := e.udp.Load() + e.tcp.Load(); n != 0 {
		t.Errorf("%d questions left", n)
	}
	if got := asked(t, r, "printer.", mdns.TypeA); got != "NOERROR, printer. A 192.0.2.66" {
		t.Errorf("a short name of the host's own network: %s", got)
	}
}

func TestSplit(t *testing.T) {
	intern, rest := startElsewhere(t, says("@ 60 IN A 192.0.2.1")), startElsewhere(t, says("@ 60 IN A 192.0.2.2"))
	names := map[netip.AddrPort]*elsewhere{netip.MustParseAddrPort("192.0.2.101:53"): intern, netip.MustParseAddrPort("192.0.2.102:53"): rest}
	r := NewResolver(func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return dialReal(ctx, network, names[to].at)
	})
	r.SetZone(zone(), protocol.DNS{
		Nameservers: []protocol.Nameserver{"192.0.2.102"},
		Split:       []protocol.Split{{Domain: "example.com", Nameservers: []protocol.Nameserver{"192.0.2.101"}}, {Domain: "hidden.example.com"}},
	})
	for name, want := range map[string]string{
		"example.com.":          "NOERROR, example.com. A 192.0.2.1",
		"a.b.example.com.":      "NOERROR, a.b.example.com. A 192.0.2.1",
		"notexample.com.":       "NOERROR, notexample.com. A 192.0.2.2",
		"x.hidden.example.com.": "SERVFAIL",
		"printer.":              "NXDOMAIN",
	} {
		if got := asked(t, r, name, mdns.TypeA); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestNoLoop: our own address among the host's resolvers is not asked, and one that asks us back comes to an end.
func TestNoLoop(t *testing.T) {
	r := NewResolver(nobody(t))
	r.SetHost([]netip.AddrPort{Listen, netip.AddrPortFrom(netip.AddrFrom16(Listen.Addr().As16()), 53)})
	if got := asked(t, r, "www.example.org.", mdns.TypeA); got != "SERVFAIL" {
		t.Error(got)
	}
	var back atomic.Pointer[Resolver]
	e := startElsewhere(t, func(q *mdns.Msg, _ string) *mdns.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		return back.Load().Exchange(ctx, q).Msg
	})
	back.Store(resolverFor(e))
	if got := asked(t, back.Load(), "www.example.org.", mdns.TypeA); got != "SERVFAIL" {
		t.Error(got)
	}
	if n := e.udp.Load() + e.tcp.Load(); n > 4 {
		t.Errorf("one question became %d", n)
	}
}

func TestAskingIsBounded(t *testing.T) {
	release := make(chan struct{})
	e := startElsewhere(t, func(q *mdns.Msg, _ string) *mdns.Msg { <-release; return nil })
	r := resolverFor(e)
	defer close(release)
	var busy atomic.Int32
	var running sync.WaitGroup
	for i := range maxAsking + 50 {
		running.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			q := new(mdns.Msg)
			q.SetQuestion("n"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+".example.org.", mdns.TypeA)
			if strings.Contains(r.Exchange(ctx, q).From, "too many") {
				busy.Add(1)
			}
		})
	}
	running.Wait()
	if busy.Load() != 50 {
		t.Errorf("%d of 50 were refused", busy.Load())
	}
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	for i := range maxCached + 100 {
		m := says("x. 60 IN A 192.0.2.1")(new(mdns.Msg).SetQuestion("x.", mdns.TypeA), "")
		c.put(cacheKey{name: string(rune(i))}, m, "")
	}
	if len(c.m) != maxCached {
		t.Errorf("%d answers are remembered", len(c.m))
	}
}

func TestLifeOfAnswers(t *testing.T) {
	soa := "example. 600 IN SOA a. b. 1 2 3 4 30"
	for what, c := range map[string]struct {
		rcode    int
		answers  []string
		negative string
		want     time.Duration
	}{
		"the least":         {0, []string{"a. 60 IN A 192.0.2.1", "b. 20 IN A 192.0.2.1"}, "", 20 * time.Second},
		"bounded":           {0, []string{"a. 604800 IN A 192.0.2.1"}, "", maxTTL},
		"not at all":        {0, []string{"a. 0 IN A 192.0.2.1"}, "", 0},
		"no, by the SOA":    {mdns.RcodeNameError, nil, soa, 30 * time.Second},
		"no data":           {0, nil, soa, 30 * time.Second},
		"no, without SOA":   {mdns.RcodeNameError, nil, "", 0},
		"no, bounded":       {mdns.RcodeNameError, nil, "example. 86400 IN SOA a. b. 1 2 3 4 86400", maxNegative},
		"failures are none": {mdns.RcodeServerFailure, nil, soa, 0},
	} {
		m := says(c.answers...)(new(mdns.Msg).SetQuestion("a.", mdns.TypeA), "")
		m.Rcode = c.rcode
		if c.negative != "" {
			rr, _ := mdns.NewRR(c.negative)
			m.Ns = append(m.Ns, rr)
		}
		if got := lifeOf(m); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

// certificate is self-signed, for a name.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, pool
}

// TestUpstreamSecure: TLS and HTTPS are believed by the name in the certificate, and by nothing else.
func TestUpstreamSecure(t *testing.T) {
	cert, pool := certificate(t, "dns.example")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	answer := says("@ 60 IN A 192.0.2.7")
	s := &mdns.Server{Listener: l, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) { _ = w.WriteMsg(answer(q, "")) })}
	go s.ActivateAndServe()
	t.Cleanup(func() { s.Shutdown() })
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		q := new(mdns.Msg)
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/dns-query", http.StatusTemporaryRedirect)
			return
		}
		if r.Host != "dns.example:"+strings.Split(r.Host, ":")[1] || r.Method != http.MethodPost || q.Unpack(body) != nil || q.Id != 0 {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		packed, _ := answer(q, "").Pack()
		w.Header().Set("Content-Type", "application/dns-message")
		w.Write(packed)
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	web.StartTLS()
	t.Cleanup(web.Close)
	webAt := netip.MustParseAddrPort(web.Listener.Addr().String())
	for _, c := range []struct {
		up   protocol.Upstream
		good bool
	}{
		{protocol.Upstream{Transport: protocol.TransportTLS, Name: "dns.example", Address: netip.MustParseAddrPort(l.Addr().String())}, true},
		{protocol.Upstream{Transport: protocol.TransportTLS, Name: "other.example", Address: netip.MustParseAddrPort(l.Addr().String())}, false},
		{protocol.Upstream{Transport: protocol.TransportTLS, Address: netip.MustParseAddrPort(l.Addr().String())}, false},
		{protocol.Upstream{Transport: protocol.TransportHTTPS, Name: "dns.example", Address: webAt, Path: "/dns-query"}, true},
		{protocol.Upstream{Transport: protocol.TransportHTTPS, Name: "other.example", Address: webAt, Path: "/dns-query"}, false},
		{protocol.Upstream{Transport: protocol.TransportHTTPS, Name: "dns.example", Address: webAt, Path: "/away"}, false},
	} {
		u := newUpstream(c.up, "", dialReal)
		u.roots = pool
		if u.http != nil {
			u.http.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
		}
		q := new(mdns.Msg)
		q.SetQuestion("www.example.org.", mdns.TypeA)
		m, err := u.ask(t.Context(), q)
		if (err == nil) != c.good || c.good && len(m.Answer) != 1 {
			t.Errorf("%+v: %v, %v", c.up, m, err)
		}
		u.close()
	}
}

func TestServer(t *testing.T) {
	r := NewResolver(nobody(t))
	many := content()
	for range 40 {
		many.DNS.Records = append(many.DNS.Records, protocol.Record{})
	}
	big := protocol.Record{Name: "big.example.net"}
	for i := range 100 {
		big.Addresses = append(big.Addresses, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	many.DNS.Records = []protocol.Record{big}
	r.SetZone(NewZone(many, func(acl.NodeID) bool { return true }, 1), many.DNS)
	s, err := listen(t.Context(), "127.0.0.1:0", r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	at := s.udp.LocalAddr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	ask := func(network, name string, size uint16) *mdns.Msg {
		t.Helper()
		q := new(mdns.Msg)
		q.SetQuestion(name, mdns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		m, _, err := (&mdns.Client{Net: network, UDPSize: 65535}).Exchange(q, at)
		if err != nil {
			t.Fatal(err)
		}
		m.Compress = true // as it came
		return m
	}
	if m := ask("udp", "big.example.net.", 0); !m.Truncated || m.IsEdns0() != nil || m.Len() > 512 {
		t.Errorf("without EDNS: %d bytes, cut %v", m.Len(), m.Truncated)
	}
	if m := ask("udp", "big.example.net.", 60000); !m.Truncated || m.IsEdns0() == nil || m.Len() > ednsSize {
		t.Errorf("with EDNS: %d bytes, cut %v", m.Len(), m.Truncated)
	}
	if m := ask("tcp", "big.example.net.", 0); m.Truncated || len(m.Answer) != 100 {
		t.Errorf("by TCP: %d answers, cut %v", len(m.Answer), m.Truncated)
	}
	if m := ask("udp", "db.corp.internal.", 1232); !m.Authoritative || !m.RecursionAvailable || len(m.Answer) != 1 || m.Answer[0].Header().Ttl != nameTTL {
		t.Errorf("%v", m)
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("an idle connection outlives the server")
	}
}

func TestServerRefuses(t *testing.T) {
	r := NewResolver(nobody(t))
	r.SetZone(zone(), protocol.DNS{})
	s := &server{resolver: r}
	question := func(change func(*mdns.Msg)) []byte {
		q := new(mdns.Msg)
		q.SetQuestion("db.corp.internal.", mdns.TypeA)
		change(q)
		packed, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	for what, c := range map[string]struct {
		packet []byte
		rcode  int // -1: silence
	}{
		"an answer":         {question(func(m *mdns.Msg) { m.Response = true }), -1},
		"a few bytes":       {make([]byte, 11), -1},
		"a header alone":    {make([]byte, 12), mdns.RcodeFormatError},
		"a torn question":   {question(func(*mdns.Msg) {})[:20], mdns.RcodeFormatError},
		"two questions":     {question(func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }), mdns.RcodeFormatError},
		"an update":         {question(func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate }), mdns.RcodeNotImplemented},
		"another class":     {question(func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }), mdns.RcodeRefused},
		"a zone transfer":   {question(func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAXFR }), mdns.RcodeRefused},
		"an unknown EDNS":   {question(func(m *mdns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), mdns.RcodeBadVers},
		"what is all right": {question(func(*mdns.Msg) {}), mdns.RcodeSuccess},
	} {
		out := s.answer(t.Context(), c.packet, true)
		if out == nil || c.rcode < 0 {
			if out != nil || c.rcode >= 0 {
				t.Errorf("%s: %x", what, out)
			}
			continue
		}
		m := new(mdns.Msg)
		if err := m.Unpack(out); err != nil || m.Rcode != c.rcode {
			t.Errorf("%s: %v, %v", what, m, err)
		}
	}
}
