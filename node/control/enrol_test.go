package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/coordinator"
	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

var testFacts = protocol.Facts{Hostname: "laptop", OS: "linux", Arch: "amd64", Version: "0.1"}

func TestEnrolAdmits(t *testing.T) {
	c, device := newCoord(), key.NewDevice()
	var got protocol.EnrolBody
	c.enrol = func(b protocol.EnrolBody) (protocol.EnrolAnswer, error) {
		got = b
		return protocol.EnrolAnswer{Admitted: &testAdmission}, nil
	}
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	e, err := newClient(t, Config{Join: c.join(at)}).Enrol(t.Context(), device, testFacts, "picket-key-x")
	if err != nil {
		t.Fatal(err)
	}
	want := Enrolment{Coordinator: c.key.Public(), Network: "net", Admitted: &testAdmission}
	if d := cmp.Diff(want, e, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	wantBody := protocol.EnrolBody{Network: "net", Coordinator: c.key.Public(), Nonce: got.Nonce, Device: device.Public(), Facts: testFacts, AuthKey: "picket-key-x"}
	if d := cmp.Diff(wantBody, got); d != "" {
		t.Error(d)
	}
}

func TestEnrolRefusedByCoordinator(t *testing.T) {
	c := newCoord()
	c.enrol = func(protocol.EnrolBody) (protocol.EnrolAnswer, error) { return protocol.EnrolAnswer{}, errSpent }
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	_, err := newClient(t, Config{Join: c.join(at)}).Enrol(t.Context(), key.NewDevice(), testFacts, "picket-key-x")
	var p *ProblemError
	if !errors.As(err, &p) || p.Code != protocol.CodeAuthKey || err.Error() != "this auth key is spent[2J: ask for another" {
		t.Errorf("%q", err)
	}
}

// TestEnrolTrustsNobodyElse: each impostor and each mishap gets its own words, and none gets the auth key, or the token of who asks about policies.
func TestEnrolTrustsNobodyElse(t *testing.T) {
	public := newAuthority(t, ecKey(t), nil) // what the system trusts
	roots := x509.NewCertPool()
	roots.AddCert(public.cert)
	plain := func(ca authority) func(*testing.T, *coord) tls.Certificate {
		return func(t *testing.T, _ *coord) tls.Certificate { return ca.leaf(t, forLoopback) }
	}
	self := func(t *testing.T, c *coord) tls.Certificate { return c.self(t) }
	timed := func(from, to time.Duration) func(*testing.T, *coord) tls.Certificate {
		return func(t *testing.T, c *coord) tls.Certificate {
			return newAuthority(t, c.key.X509(), nil).leaf(t, func(x *x509.Certificate) { x.NotBefore, x.NotAfter = time.Now().Add(from), time.Now().Add(to) })
		}
	}
	other := key.NewCoordinator()
	otherPrint := other.Public().Fingerprint()
	fingerprint := func(c *coord) key.Fingerprint { return c.key.Public().Fingerprint() }
	none := func(*coord) key.Fingerprint { return key.Fingerprint{} }

	for name, x := range map[string]struct {
		cert   func(*testing.T, *coord) tls.Certificate
		print  func(*coord) key.Fingerprint
		pinned func(*coord) key.CoordinatorPublic
		change func(*coord)
		want   error
		says   []string
	}{
		"a fingerprint of another key": {cert: self, print: func(*coord) key.Fingerprint { return otherPrint },
			want: ErrWrongKey, says: []string{"has key", "the join string says " + otherPrint.String()}},
		"another key than the pinned one": {cert: self, print: none, pinned: func(*coord) key.CoordinatorPublic { return other.Public() },
			want: ErrWrongKey, says: []string{"enrolled with key " + otherPrint.String(), "picket logout"}},
		"a self-signed one without fingerprint": {cert: self, print: none, want: ErrUntrusted, says: []string{"not trusted", "#FINGERPRINT"}},
		"the coordinator's certificate shown by a stranger": {cert: func(t *testing.T, c *coord) tls.Certificate {
			mine := newAuthority(t, key.NewCoordinator().X509(), nil).leaf(t, forLoopback)
			mine.Certificate = append(mine.Certificate, newAuthority(t, c.key.X509(), nil).cert.Raw)
			return mine
		}, print: fingerprint, want: ErrUntrusted, says: []string{"is not the coordinator"}},
		"a leaf with the coordinator's key in its own name only": {cert: func(t *testing.T, c *coord) tls.Certificate {
			// Signed by another key under the authority's name, as one who knows only the certificate would.
			real, forger := newAuthority(t, c.key.X509(), nil), ecKey(t)
			cert := authority{real.cert, c.key.X509()}.leaf(t, nil)
			k := ecKey(t)
			forged := issue(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &x509.Certificate{Subject: real.cert.Subject, RawSubject: real.cert.RawSubject}, k.Public(), forger)
			return tls.Certificate{Certificate: [][]byte{forged.Raw, cert.Certificate[1]}, PrivateKey: k}
		}, print: fingerprint, want: ErrUntrusted, says: []string{"is not the coordinator"}},
		"a public certificate, but another coordinator's key": {cert: plain(public), print: func(*coord) key.Fingerprint { return otherPrint },
			want: ErrWrongKey, says: []string{otherPrint.String()}},
		"a public certificate, and an old answer replayed": {cert: plain(public), print: fingerprint, change: func(c *coord) {
			old, err := protocol.SignInfo(protocol.InfoBody{Version: 1, Network: "net", Coordinator: c.key.Public(), Client: freshNonce(), Nonce: freshNonce(), Time: time.Now()}, c.key)
			c.info = func([]byte) (protocol.Info, error) { return old, err }
		}, want: ErrWrongKey, says: []string{"does not hold the coordinator's key"}},
		"a public certificate, and a forged signature": {cert: plain(public), print: fingerprint, change: func(c *coord) {
			c.info = func(client []byte) (protocol.Info, error) {
				return protocol.SignInfo(protocol.InfoBody{Version: 1, Network: "net", Coordinator: c.key.Public(), Client: client, Nonce: freshNonce(), Time: time.Now()}, other)
			}
		}, want: ErrWrongKey, says: []string{"does not hold the coordinator's key"}},
		"a public certificate of another host": {cert: func(t *testing.T, _ *coord) tls.Certificate { return public.leaf(t, nil) }, print: none,
			want: ErrUntrusted, says: []string{"#FINGERPRINT"}},
		"a public certificate that ended": {cert: func(t *testing.T, _ *coord) tls.Certificate {
			return public.leaf(t, func(x *x509.Certificate) {
				forLoopback(x)
				x.NotBefore, x.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			})
		}, print: none, want: ErrUntrusted, says: []string{"clock", "valid from"}},
		"a private authority that nobody trusts": {cert: plain(newAuthority(t, ecKey(t), nil)), print: fingerprint,
			want: ErrUntrusted, says: []string{"neither of the coordinator's key", "proxy"}},
		"an authority that may not sign": {cert: func(t *testing.T, c *coord) tls.Certificate {
			return newAuthority(t, c.key.X509(), func(x *x509.Certificate) { x.IsCA = false; x.KeyUsage = 0 }).leaf(t, nil)
		}, print: fingerprint, want: ErrUntrusted, says: []string{"neither of the coordinator's key"}},
		"a leaf that is for clients": {cert: func(t *testing.T, c *coord) tls.Certificate {
			return newAuthority(t, c.key.X509(), nil).leaf(t, func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}, print: fingerprint, want: ErrUntrusted, says: []string{"is not the coordinator"}},
		"our clock an hour behind": {cert: self, print: fingerprint, change: func(c *coord) { c.ahead = time.Hour },
			want: ErrClock, says: []string{"1h0m0s behind", "set the clock"}},
		"our clock an hour ahead": {cert: self, print: fingerprint, change: func(c *coord) { c.ahead = -time.Hour },
			want: ErrClock, says: []string{"1h0m0s ahead of"}},
		"our clock so far behind that the certificate is not valid yet": {cert: timed(59*time.Minute, 24*time.Hour), print: fingerprint, change: func(c *coord) { c.ahead = time.Hour },
			want: ErrClock, says: []string{"1h0m0s behind"}},
		"our clock so far ahead that the certificate has ended": {cert: timed(-24*time.Hour, -time.Hour), print: fingerprint, change: func(c *coord) { c.ahead = -2 * time.Hour },
			want: ErrClock, says: []string{"2h0m0s ahead of"}},
		"a certificate that really ended": {cert: timed(-24*time.Hour, -time.Hour), print: fingerprint,
			want: ErrUntrusted, says: []string{"its operator must give it a new certificate"}},
		"an ended certificate of a stolen leaf key, who cannot sign": {cert: timed(-24*time.Hour, -time.Hour), print: fingerprint, change: func(c *coord) {
			c.info = func([]byte) (protocol.Info, error) { return protocol.Info{}, errBoom }
		}, want: ErrUntrusted, says: []string{"clock", "valid from"}},
		"a newer version": {cert: self, print: fingerprint, change: func(c *coord) { c.version = 2 }, want: ErrVersion, says: []string{"version 2", "version 1", "update"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCoord()
			c.enrol = func(protocol.EnrolBody) (protocol.EnrolAnswer, error) {
				return protocol.EnrolAnswer{Admitted: &testAdmission}, nil
			}
			if x.change != nil {
				x.change(c)
			}
			at, _ := c.listen(t, x.cert(t, c), "127.0.0.1:0", httpapi.Timing{})
			conf := Config{Join: protocol.Join{URL: at, Fingerprint: x.print(c)}, Roots: roots}
			if x.pinned != nil {
				conf.Pinned = x.pinned(c)
			}
			_, err := newClient(t, conf).Enrol(t.Context(), key.NewDevice(), testFacts, "picket-key-secret")
			if !errors.Is(err, x.want) {
				t.Fatalf("error is %v, want %v", err, x.want)
			}
			for _, s := range x.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("the error does not say %q: %v", s, err)
				}
			}
			if n := c.count("enrol"); n != 0 {
				t.Errorf("the auth key was sent")
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats the auth key")
			}
			if err := askInForce(t, newClient(t, conf)); !errors.Is(err, x.want) || c.count("token") != 0 || strings.Contains(err.Error(), testToken) {
				t.Errorf("who asks about the policy is told %v; the token was sent %d times", err, c.count("token"))
			}
		})
	}
}

func TestEnrolTrusts(t *testing.T) {
	public := newAuthority(t, ecKey(t), nil)
	roots := x509.NewCertPool()
	roots.AddCert(public.cert)
	for name, x := range map[string]struct {
		public, print bool
	}{
		"a public certificate, key pinned at first use":            {true, false},
		"a public certificate of a reverse proxy, and fingerprint": {true, true},
		"its own certificate under another host name":              {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCoord()
			c.enrol = func(protocol.EnrolBody) (protocol.EnrolAnswer, error) {
				return protocol.EnrolAnswer{Admitted: &testAdmission}, nil
			}
			cert := c.self(t)
			if x.public {
				cert = public.leaf(t, forLoopback)
			}
			at, _ := c.listen(t, cert, "127.0.0.1:0", httpapi.Timing{})
			j := protocol.Join{URL: at}
			if x.print {
				j = c.join(at)
			}
			e, err := newClient(t, Config{Join: j, Roots: roots}).Enrol(t.Context(), key.NewDevice(), testFacts, "")
			if err != nil || e.Coordinator != c.key.Public() {
				t.Fatal(e, err)
			}
			// Once pinned, the same client configuration without a fingerprint goes on working, also behind the proxy.
			if _, err := newClient(t, Config{Join: protocol.Join{URL: at}, Pinned: e.Coordinator, Roots: roots}).Enrol(t.Context(), key.NewDevice(), testFacts, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	pinned := key.NewCoordinator().Public()
	for name, c := range map[string]Config{
		"no URL":                         {},
		"http":                           {Join: protocol.Join{URL: "http://127.0.0.1"}},
		"a join string of another one's": {Join: protocol.Join{URL: "https://127.0.0.1", Fingerprint: key.NewCoordinator().Public().Fingerprint()}, Pinned: pinned},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestUnreachableInWords: each mishap on the way is told apart.
func TestUnreachableInWords(t *testing.T) {
	c := newCoord()
	html := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>welcome")) })
	conf := &tls.Config{Certificates: []tls.Certificate{c.self(t)}}
	website, _ := listen(t, html, conf.Clone(), "127.0.0.1:0")
	large, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(bytes.Repeat([]byte(" "), 1<<10))
		}
	}), conf.Clone(), "127.0.0.1:0")
	notTLS, _ := listen(t, html, nil, "127.0.0.1:0")
	gateway, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }), conf.Clone(), "127.0.0.1:0")
	upgrade, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUpgradeRequired) }), conf.Clone(), "127.0.0.1:0")
	elsewhere, _ := listen(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }), conf.Clone(), "127.0.0.1:0")
	redirect, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere, http.StatusFound)
	}), conf.Clone(), "127.0.0.1:0")
	old := conf.Clone()
	old.MaxVersion = tls.VersionTLS12
	tls12, _ := listen(t, html, old, "127.0.0.1:0")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: err}
		}
	}
	for name, x := range map[string]struct {
		url  string
		dial func(context.Context, string, string) (net.Conn, error)
		kind error
		says string
	}{
		"nothing listens":                   {"https://127.0.0.1:1", nil, ErrUnreachable, "connection refused"},
		"no such name":                      {"https://nowhere.invalid", failing(&net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}), ErrUnreachable, "nowhere.invalid is not found"},
		"no route":                          {"https://192.0.2.1", failing(syscall.ENETUNREACH), ErrUnreachable, "no route"},
		"no answer":                         {"https://" + silent.Addr().String(), nil, ErrUnreachable, "does not answer"},
		"no TLS":                            {notTLS, nil, ErrUnreachable, "does not speak TLS"},
		"TLS 1.2 only":                      {tls12, nil, ErrUnreachable, "allow TLS 1.3"},
		"a web site":                        {website, nil, ErrNotPicket, "no Picket coordinator, but a web page"},
		"an answer without end":             {large, nil, ErrNotPicket, "no Picket coordinator"},
		"a redirect":                        {redirect, nil, ErrNotPicket, "no Picket coordinator, but a redirect"},
		"a proxy that takes out WebSockets": {upgrade, nil, ErrUnreachable, "passes no WebSockets on"},
		"a proxy without backend":           {gateway, nil, ErrUnreachable, "does not reach it"},
	} {
		t.Run(name, func(t *testing.T) {
			timing := quick
			timing.Request = 300 * time.Millisecond
			_, err := newClient(t, Config{Join: c.join(x.url), DialContext: x.dial, Timing: timing}).Enrol(t.Context(), key.NewDevice(), testFacts, "")
			if !errors.Is(err, x.kind) || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestNoRelay: where no relay is that is said.
func TestNoRelay(t *testing.T) {
	c := newCoord()
	url, _ := listen(t, http.NotFoundHandler(), &tls.Config{Certificates: []tls.Certificate{c.self(t)}}, "127.0.0.1:0")
	_, err := newClient(t, Config{Join: c.join(url), Timing: quick}).Relay(t.Context())
	if !errors.Is(err, ErrNotPicket) || !strings.Contains(err.Error(), "there is no relay at "+url) {
		t.Error(err)
	}
}

// TestProxy: an HTTP proxy carries the connection and sees nothing of it.
func TestProxy(t *testing.T) {
	c := newCoord()
	c.enrol = func(protocol.EnrolBody) (protocol.EnrolAnswer, error) {
		return protocol.EnrolAnswer{Admitted: &testAdmission}, nil
	}
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	asked := make(chan string, 8)
	proxy, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = near.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}), nil, "127.0.0.1:0")
	u := &url.URL{Scheme: "http", Host: strings.TrimPrefix(proxy, "https://")}
	cl := newClient(t, Config{Join: c.join(at), Proxy: http.ProxyURL(u)})
	if _, err := cl.Enrol(t.Context(), key.NewDevice(), testFacts, ""); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	if got, want := wait(t, asked, "the proxy"), "CONNECT "+strings.TrimPrefix(at, "https://"); got != want {
		t.Errorf("the proxy was asked for %s, not %s", got, want)
	}
}

func pending() (protocol.WaitAnswer, error) {
	return protocol.WaitAnswer{State: protocol.TicketPending}, nil
}

// TestWaitUntilDecided goes on through pending answers, throttling, a coordinator that is unwell, and one that restarts.
func TestWaitUntilDecided(t *testing.T) {
	c := newCoord()
	cert := c.self(t)
	at, stop := c.listen(t, cert, "127.0.0.1:0", httpapi.Timing{})
	restarted := make(chan struct{})
	c.waits = []func() (protocol.WaitAnswer, error){
		pending,
		func() (protocol.WaitAnswer, error) { return protocol.WaitAnswer{}, errBoom },
		func() (protocol.WaitAnswer, error) {
			close(restarted)
			return pending()
		},
		pending,
		func() (protocol.WaitAnswer, error) {
			return protocol.WaitAnswer{State: protocol.TicketApproved, Admitted: &testAdmission}, nil
		},
	}
	go func() {
		<-restarted
		stop()
		c.listen(t, cert, strings.TrimPrefix(at, "https://"), httpapi.Timing{})
	}()
	a, err := newClient(t, Config{Join: c.join(at)}).Wait(t.Context(), protocol.Ticket{ID: "t", Secret: "s", Expires: time.Now().Add(time.Minute)})
	if err != nil || a.Node != "n1" {
		t.Fatal(a, err)
	}
	if n := c.count("wait"); n < 5 {
		t.Errorf("asked %d times", n)
	}
}

func TestWaitEnds(t *testing.T) {
	answer := func(state, message string) func() (protocol.WaitAnswer, error) {
		return func() (protocol.WaitAnswer, error) { return protocol.WaitAnswer{State: state, Message: message}, nil }
	}
	for name, x := range map[string]struct {
		wait    func() (protocol.WaitAnswer, error)
		expires time.Duration
		state   string
		says    string
	}{
		"denied, in the coordinator's words": {answer(protocol.TicketDenied, "alice denied it\x07"), time.Minute, protocol.TicketDenied, "alice denied it"},
		"denied, without words":              {answer(protocol.TicketDenied, ""), time.Minute, protocol.TicketDenied, "denied"},
		"run out":                            {answer(protocol.TicketExpired, ""), time.Minute, protocol.TicketExpired, "in time"},
		"too many wrong codes":               {answer(protocol.TicketSpoiled, ""), time.Minute, protocol.TicketSpoiled, "wrong too often"},
		"in a state nobody knows":            {answer("odd", ""), time.Minute, "odd", "ended"},
		"pending for ever":                   {pending, -2 * graceAfterTicket, protocol.TicketExpired, "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCoord()
			c.waits = []func() (protocol.WaitAnswer, error){x.wait}
			at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
			_, err := newClient(t, Config{Join: c.join(at)}).Wait(t.Context(), protocol.Ticket{ID: "t", Secret: "s", Expires: time.Now().Add(x.expires)})
			var te *TicketError
			if !errors.As(err, &te) || te.State != x.state || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "\x07") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("refused for good", func(t *testing.T) {
		c := newCoord()
		c.waits = []func() (protocol.WaitAnswer, error){func() (protocol.WaitAnswer, error) {
			return protocol.WaitAnswer{}, &coordinator.Error{Code: protocol.CodeBadRequest, Message: "no such ticket"}
		}}
		at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
		_, err := newClient(t, Config{Join: c.join(at)}).Wait(t.Context(), protocol.Ticket{Expires: time.Now().Add(time.Minute)})
		if err == nil || err.Error() != "no such ticket" {
			t.Error(err)
		}
	})
	t.Run("by us", func(t *testing.T) {
		c := newCoord()
		c.waits = []func() (protocol.WaitAnswer, error){pending}
		at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := newClient(t, Config{Join: c.join(at)}).Wait(ctx, protocol.Ticket{Expires: time.Now().Add(time.Minute)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "-1": 0, "1e9": 0, "9999": maxRetryAfter, "Wed, 21 Oct 2026 07:28:00 GMT": 0} {
		if got := retryAfter(http.Header{"Retry-After": {in}}); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
