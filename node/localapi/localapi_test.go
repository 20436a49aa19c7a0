package localapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeAgent answers with what it was asked.
type fakeAgent struct{ trusted []string }

func (*fakeAgent) Status(context.Context) (Status, error) {
	return Status{State: StateRunning, Membership: Membership{Name: "laptop"}}, nil
}
func (*fakeAgent) Peers(context.Context) ([]Peer, error) { return []Peer{{Name: "db"}}, nil }
func (*fakeAgent) Up(ctx context.Context, u Up, emit func(UpEvent)) {
	emit(UpEvent{Login: &Login{URL: "https://c/login/1", Code: "BCDF-2345"}})
	if u.Hostname == "wait" {
		<-ctx.Done()
		emit(UpEvent{Error: "stopped"})
		return
	}
	if u.AuthKey == "bad" {
		emit(UpEvent{Error: "the auth key is unknown"})
		return
	}
	emit(UpEvent{Done: &Status{State: StateRunning, Membership: Membership{Name: u.Hostname}}})
}
func (*fakeAgent) Down(context.Context) error   { return nil }
func (*fakeAgent) Logout(context.Context) error { return errors.New("not logged in: picket up") }
func (*fakeAgent) Why(_ context.Context, w Why) (WhyAnswer, error) {
	return WhyAnswer{Dst: w.Dst, Allow: true}, nil
}
func (*fakeAgent) Ping(_ context.Context, p Ping) (PingAnswer, error) {
	return PingAnswer{Name: p.Target, RTT: time.Millisecond}, nil
}
func (*fakeAgent) Netcheck(context.Context) (Netcheck, error) {
	return Netcheck{UDP: true, Port: 41641}, nil
}
func (*fakeAgent) Rotate(context.Context, Rotate) (Rotation, error) {
	return Rotation{Key: "k2", Done: true}, nil
}
func (*fakeAgent) Set(_ context.Context, c ChangeRouting) (Status, error) {
	if c.Accept == nil || c.Exit != nil || c.SNAT != nil || len(*c.Advertise) != 1 {
		return Status{}, errors.New("that is not what was asked")
	}
	return Status{Routing: Routing{Accepts: *c.Accept}}, nil
}
func (a *fakeAgent) DNS(context.Context) (DNS, error) {
	return DNS{On: true, Domain: "picket.internal"}, nil
}

func (a *fakeAgent) QueryDNS(_ context.Context, q QueryDNS) (DNSReply, error) {
	return DNSReply{Name: q.Name, Status: "NOERROR", Records: []string{q.Type}}, nil
}

func (a *fakeAgent) Trust(_ context.Context, t Trust) error {
	a.trusted = append(a.trusted, t.Peer)
	return nil
}

func (*fakeAgent) Flows(_ context.Context, q AskFlows) (Flows, error) {
	if q.Selection.Peer != "" {
		return Flows{}, errors.New("no peer is called that")
	}
	f := Flows{FlowTotals: FlowTotals{Matched: 20_000, Total: 30_000}}
	for i := range q.Limit {
		f.List = append(f.List, Flow{Src: Endpoint{Name: "laptop", Port: uint16(i)}, Rule: q.Selection.String()})
	}
	return f, nil
}
func (*fakeAgent) Denials(_ context.Context, q AskDenials) (Denials, error) {
	return Denials{DenialTotals: DenialTotals{Packets: 7, Seq: q.After + 1}, List: []Denial{{Reason: "no-rule"}}}, nil
}
func (*fakeAgent) Capture(ctx context.Context, q AskCapture, emit func([]CaptureEvent)) error {
	if !q.Denied {
		return errors.New("of what?")
	}
	emit([]CaptureEvent{{Start: &CaptureStart{Version: "test"}}})
	emit([]CaptureEvent{{Packet: &Packet{Data: make([]byte, MaxSnaplen)}}, {Packet: &Packet{Reason: "no-rule", Dropped: 3}}})
	if q.Count == 0 {
		<-ctx.Done()
	}
	emit([]CaptureEvent{{End: &CaptureEnd{Matched: uint64(Caller(ctx) + 2), Dropped: 3}}})
	return nil
}

func (*fakeAgent) Forward(ctx context.Context, q AskForward, emit func(PassageEvent)) error {
	if len(q.Forwards) == 0 {
		return errors.New("of what?")
	}
	emit(PassageEvent{Kind: PassageOpen, Listen: q.Forwards[0].Listen})
	if q.Forwards[0].Peer == "stops" {
		return errors.New("too late to be told")
	}
	<-ctx.Done()
	return nil
}
func (a *fakeAgent) Expose(_ context.Context, q AskExpose, emit func(PassageEvent)) error {
	emit(PassageEvent{Kind: PassageWarning, Reason: "nobody may come"})
	return nil
}

// serve starts a server on a fresh socket and returns its path.
func serve(t *testing.T, agent Agent) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "picket.sock")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, agent, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestClient(t *testing.T) {
	agent := &fakeAgent{}
	c := NewClient(serve(t, agent))
	ctx := t.Context()
	status, err := c.Status(ctx)
	if err != nil || status.Name != "laptop" {
		t.Errorf("Status: %+v, %v", status, err)
	}
	if peers, err := c.Peers(ctx); err != nil || len(peers) != 1 || peers[0].Name != "db" {
		t.Errorf("Peers: %+v, %v", peers, err)
	}
	if a, err := c.Why(ctx, Why{Dst: "db:22"}); err != nil || !a.Allow || a.Dst != "db:22" {
		t.Errorf("Why: %+v, %v", a, err)
	}
	if n, err := c.Netcheck(ctx); err != nil || !n.UDP || n.Port != 41641 {
		t.Errorf("Netcheck: %+v, %v", n, err)
	}
	if a, err := c.Ping(ctx, Ping{Target: "db"}); err != nil || a.Name != "db" || a.RTT != time.Millisecond {
		t.Errorf("Ping: %+v, %v", a, err)
	}
	yes, routes := true, []netip.Prefix{netip.MustParsePrefix("10.33.0.0/16")}
	if s, err := c.Set(ctx, ChangeRouting{Accept: &yes, Advertise: &routes}); err != nil || !s.Routing.Accepts {
		t.Errorf("Set: %+v, %v", s, err)
	}
	if err := c.Down(ctx); err != nil {
		t.Errorf("Down: %v", err)
	}
	if err := c.Logout(ctx); err == nil || err.Error() != "not logged in: picket up" {
		t.Errorf("Logout: %v, want the agent's sentence alone", err)
	}
	if err := c.Trust(ctx, Trust{Peer: "db"}); err != nil || !cmp.Equal(agent.trusted, []string{"db"}) {
		t.Errorf("Trust: %v, %v", agent.trusted, err)
	}
}

func TestUpStreams(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	var events []UpEvent
	see := func(e UpEvent) { events = append(events, e) }
	status, err := c.Up(t.Context(), Up{Hostname: "laptop"}, see)
	if err != nil || status.Name != "laptop" || len(events) != 1 || events[0].Login.Code != "BCDF-2345" {
		t.Errorf("%+v, %v, %+v", status, err, events)
	}
	if _, err := c.Up(t.Context(), Up{AuthKey: "bad"}, see); err == nil || err.Error() != "the auth key is unknown" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := c.Up(ctx, Up{Hostname: "wait"}, func(UpEvent) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("an event must arrive before the last: %v", err)
	}
}

func TestListsComeWhole(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	f, err := c.Flows(t.Context(), AskFlows{Limit: MaxListed, Selection: Selection{Way: WayIn}})
	if err != nil || f.Matched != 20_000 || f.Total != 30_000 || len(f.List) != MaxListed || f.List[77].Src.Port != 77 || f.List[77].Rule != "in" {
		t.Errorf("%d flows, %+v, %v", len(f.List), f.FlowTotals, err)
	}
	if _, err := c.Flows(t.Context(), AskFlows{Selection: Selection{Peer: "x"}}); err == nil || err.Error() != "no peer is called that" {
		t.Errorf("got %v, want the agent's sentence alone", err)
	}
	d, err := c.Denials(t.Context(), AskDenials{After: 1 << 63})
	if err != nil || d.Packets != 7 || d.Seq != 1<<63+1 || len(d.List) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestCaptureStreams(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	var events []CaptureEvent
	see := func(e CaptureEvent) error {
		events = append(events, e)
		return nil
	}
	end, err := c.Capture(t.Context(), AskCapture{Denied: true, Count: 2}, see)
	if err != nil || len(events) != 3 || events[0].Start == nil || len(events[1].Packet.Data) != MaxSnaplen || events[2].Packet.Dropped != 3 {
		t.Errorf("%+v, %v, %d events", end, err, len(events))
	}
	if caller := int(end.Matched) - 2; caller != os.Getuid() && runtime.GOOS != "windows" {
		t.Errorf("user %d asked, the agent was told %d", os.Getuid(), caller)
	}
	if _, err := c.Capture(t.Context(), AskCapture{}, see); err == nil || err.Error() != "of what?" {
		t.Errorf("got %v, want the agent's sentence alone", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := func(e CaptureEvent) error {
		if e.Packet != nil {
			cancel() // a packet must arrive before the last event
		}
		return nil
	}
	if _, err := c.Capture(ctx, AskCapture{Denied: true}, stop); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	full := errors.New("the disk is full")
	if _, err := c.Capture(t.Context(), AskCapture{Denied: true}, func(CaptureEvent) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

// An answer that ends before it is whole is no short answer.
func TestAnswersCutShortAreErrors(t *testing.T) {
	for _, text := range []string{"", `{"listed":3,"head":{}}` + "\n" + `{}` + "\n", `{"start":{}}` + "\n"} {
		path := filepath.Join(t.TempDir(), "short.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		c := NewClient(path)
		if f, err := c.Flows(t.Context(), AskFlows{}); !errors.Is(err, errCutShort) && text[:min(8, len(text))] != `{"start"` {
			t.Errorf("%q: %+v, %v", text, f, err)
		}
		if end, err := c.Capture(t.Context(), AskCapture{}, func(CaptureEvent) error { return nil }); !errors.Is(err, errCutShort) {
			t.Errorf("%q: %+v, %v", text, end, err)
		}
	}
}

func TestNoAgent(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none.sock"), deadSocket(t)} {
		if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNoAgent) {
			t.Errorf("%s: %v, want ErrNoAgent", path, err)
		}
	}
}

// deadSocket is a socket file on which nobody listens any more.
func deadSocket(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	return path
}

// raw sends one request over the socket as given and returns status and body.
func raw(t *testing.T, path, request string) (int, string) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return exchange(t, c, request)
}

func exchange(t *testing.T, c net.Conn, request string) (int, string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(c)
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	fields := strings.Fields(head)
	if len(fields) < 2 {
		t.Fatalf("no answer to %q: %q", request, answer)
	}
	status := 0
	for _, r := range fields[1] {
		status = status*10 + int(r-'0')
	}
	return status, body
}

func TestServer_refusesWhatABrowserCouldSend(t *testing.T) {
	path := serve(t, &fakeAgent{})
	for _, test := range []struct {
		outcome string
		request string
		status  int
		body    string
	}{
		{"another host (rebinding)", "GET /v1/status HTTP/1.1\nHost: evil.example\nConnection: close\n\n", 403, "picket command only"},
		{"host with a port", "GET /v1/status HTTP/1.1\nHost: picket:80\nConnection: close\n\n", 403, "picket command only"},
		{"localhost", "GET /v1/status HTTP/1.1\nHost: localhost\nConnection: close\n\n", 403, "picket command only"},
		{"no host", "GET /v1/status HTTP/1.0\n\n", 403, "picket command only"},
		{"an origin", "POST /v1/down HTTP/1.1\nHost: picket\nOrigin: https://evil.example\nConnection: close\nContent-Length: 2\n\n{}", 403, "web pages"},
		{"an empty origin", "POST /v1/down HTTP/1.1\nHost: picket\nOrigin: \nConnection: close\nContent-Length: 2\n\n{}", 403, "web pages"},
		{"null origin", "POST /v1/down HTTP/1.1\nHost: picket\nOrigin: null\nConnection: close\nContent-Length: 2\n\n{}", 403, "web pages"},
		{"a change by GET", "GET /v1/down HTTP/1.1\nHost: picket\nConnection: close\n\n", 404, "does not know"},
		{"unknown field", "POST /v1/why HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 9\n\n{\"dest\":1}", 400, "same version"},
		{"something behind the object", "POST /v1/down HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 4\n\n{}{}", 400, "behind"},
		{"unknown path", "GET /v2 HTTP/1.1\nHost: picket\nConnection: close\n\n", 404, "does not know"},
		{"as the command sends it", "GET /v1/status HTTP/1.1\nHost: picket\nConnection: close\n\n", 200, "laptop"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			if status, body := raw(t, path, test.request); status != test.status || !strings.Contains(body, test.body) {
				t.Errorf("%d %s, want %d with %q", status, body, test.status, test.body)
			}
		})
	}
}

func TestServer_boundsRequests(t *testing.T) {
	path := serve(t, &fakeAgent{})
	c := NewClient(path)
	if _, err := c.Why(t.Context(), Why{Dst: strings.Repeat("x", maxBody)}); err == nil {
		t.Error("a request above the bound was read")
	}
}

func TestGuard_refusesAnUncheckedConnection(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://picket/v1/status", nil)
	guard(routes(&fakeAgent{})).ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("status %d, want 403", w.Code)
	}
}

func TestListen_refuses(t *testing.T) {
	for _, test := range []struct {
		outcome string
		prepare func(t *testing.T, path string)
		want    string
	}{
		{"an agent answers", func(t *testing.T, path string) {
			l, err := Listen(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another agent answers"},
		{"a file is there", func(_ *testing.T, path string) { os.WriteFile(path, []byte("mine"), 0o600) }, "is no socket"},
		{"others may write the directory", func(_ *testing.T, path string) { os.Chmod(filepath.Dir(path), 0o777) }, "written by other users"},
		{"the group may write the directory", func(_ *testing.T, path string) { os.Chmod(filepath.Dir(path), 0o770) }, "written by other users"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "picket.sock")
			os.Chmod(filepath.Dir(path), 0o755)
			test.prepare(t, path)
			l, err := Listen(t.Context(), path)
			if err == nil {
				l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestListen_replacesAStaleSocketAndSetsTheMode(t *testing.T) {
	path := deadSocket(t)
	os.Chmod(filepath.Dir(path), 0o755)
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}
