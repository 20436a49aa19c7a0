package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/clientaddr"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func goodEnrol(t *testing.T) string {
	t.Helper()
	e, err := protocol.SignEnrol(protocol.EnrolBody{}, key.NewDevice())
	if err != nil {
		t.Fatal(err)
	}
	b, err := protocol.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unsized hides a body's length, so that it is sent in chunks.
type unsized struct{ io.Reader }

// TestRequestsRefusedBeforeTheCoordinator is R15 and R24: none of these reaches it.
func TestRequestsRefusedBeforeTheCoordinator(t *testing.T) {
	const js = "application/json"
	large := strings.Repeat(" ", protocol.MaxEnrolBody) + "{}"
	nonce := "?nonce=" + protocol.FormatClientNonce(make([]byte, 32))
	for name, c := range map[string]struct {
		method, path, contentType string
		body                      io.Reader
		status                    int
	}{
		"info without a nonce":           {"GET", protocol.PathInfo, "", nil, 400},
		"info with a short nonce":        {"GET", protocol.PathInfo + "?nonce=AAAA", "", nil, 400},
		"info by POST":                   {"POST", protocol.PathInfo + nonce, js, strings.NewReader("{}"), 405},
		"enrol by GET":                   {"GET", protocol.PathEnrol, "", nil, 405},
		"enrol from a form (cross-site)": {"POST", protocol.PathEnrol, "application/x-www-form-urlencoded", strings.NewReader(goodEnrol(t)), 415},
		"enrol as text (cross-site)":     {"POST", protocol.PathEnrol, "text/plain", strings.NewReader(goodEnrol(t)), 415},
		"enrol of no type":               {"POST", protocol.PathEnrol, "", strings.NewReader(goodEnrol(t)), 415},
		"enrol larger than 64 KiB":       {"POST", protocol.PathEnrol, js, strings.NewReader(large), 413},
		"enrol larger, length not told":  {"POST", protocol.PathEnrol, js, unsized{strings.NewReader(large)}, 413},
		"enrol that is no JSON":          {"POST", protocol.PathEnrol, js, strings.NewReader("{"), 400},
		"enrol without a signature":      {"POST", protocol.PathEnrol, js, strings.NewReader(`{"body":"AAAA"}`), 400},
		"enrol of 60,000 brackets":       {"POST", protocol.PathEnrol, js, strings.NewReader(strings.Repeat("[", 60_000)), 400},
		"wait from a form (cross-site)":  {"POST", protocol.PathWait, "application/x-www-form-urlencoded", strings.NewReader("{}"), 415},
		"wait larger than 64 KiB":        {"POST", protocol.PathWait, js, strings.NewReader(large), 413},
		"a session by POST":              {"POST", protocol.PathSession, js, strings.NewReader("{}"), 405},
		"a webhook without a secret set": {"POST", PathWebhook, js, strings.NewReader("{}"), 404},
		"a path that does not exist":     {"GET", "/picket/v1/keys", "", nil, 404},
		"a path above all":               {"GET", "/", "", nil, 404},
		"a session asked for as a page":  {"GET", protocol.PathSession, "", nil, 426},
		"enrol of two types at once":     {"POST", protocol.PathEnrol, js + ",text/plain", strings.NewReader(goodEnrol(t)), 415},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{})
			r := s.request(t, c.method, c.path, c.contentType, c.body)
			if c.status == 426 { // answered by the WebSocket library
				resp, err := http.DefaultTransport.RoundTrip(r)
				if err != nil || resp.StatusCode != 426 {
					t.Fatal(resp, err)
				}
				_ = resp.Body.Close()
			} else if resp, _, body := s.ask(t, r); resp.StatusCode != c.status {
				t.Errorf("answered %s: %s", resp.Status, body)
			}
			if s.fake.called() != "" {
				t.Errorf("the coordinator was asked: %s", s.fake.called())
			}
		})
	}
}

// TestSlowBodyIsGivenUp is R15: a client that sends its body a byte at a time gets its answer within the deadline all the same.
func TestSlowBodyIsGivenUp(t *testing.T) {
	s := serve(t, Config{Timing: Timing{Body: 50 * time.Millisecond}})
	pr, pw := io.Pipe()
	defer func() { _ = pw.Close() }()
	go func() { _, _ = pw.Write([]byte("{")) }()
	resp, p, _ := s.ask(t, s.request(t, "POST", protocol.PathEnrol, "application/json", pr))
	if resp.StatusCode != 400 || p.Code != protocol.CodeBadRequest {
		t.Errorf("answered %s %v", resp.Status, p)
	}
}

func TestInfoAnswers(t *testing.T) {
	s := serve(t, Config{})
	nonce := make([]byte, 16)
	resp, _, body := s.ask(t, s.request(t, "GET", protocol.PathInfo+"?nonce="+protocol.FormatClientNonce(nonce), "", nil))
	var i protocol.Info
	if err := protocol.Unmarshal([]byte(body), &i); err != nil {
		t.Fatal(err)
	}
	if b, err := protocol.OpenInfo(i, nonce, s.fake.key.Public().Fingerprint()); err != nil || b.Network != "net" {
		t.Error(b, err)
	}
	if resp.Header.Get("Cache-Control") != "no-store" {
		t.Error("an answer may be cached")
	}
}

// TestErrorsSaid: what was made for outsiders is said with its status; what was not is logged and stays inside.
func TestErrorsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
		says   string
	}{
		"a spent auth key":          {&coordinator.Error{Code: protocol.CodeAuthKey, Message: "this auth key is spent"}, 403, protocol.CodeAuthKey, "this auth key is spent"},
		"no addresses left":         {&coordinator.Error{Code: protocol.CodeExhausted, Message: "no addresses"}, 503, protocol.CodeExhausted, "no addresses"},
		"throttled below":           {&coordinator.Error{Code: protocol.CodeThrottled, Message: "slowly"}, 429, protocol.CodeThrottled, "slowly"},
		"a clock that is off":       {&coordinator.Error{Code: protocol.CodeClock, Message: "clock"}, 400, protocol.CodeClock, "clock"},
		"a signature that is wrong": {protocol.ErrSignature, 400, protocol.CodeBadRequest, "signature"},
		"a broken database":         {errors.New("sqlite: disk I/O error at /secret/path"), 503, protocol.CodeUnavailable, "its log says why"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{})
			s.fake.enrol = func() (protocol.EnrolAnswer, error) { return protocol.EnrolAnswer{}, c.err }
			resp, p, body := s.ask(t, s.request(t, "POST", protocol.PathEnrol, "application/json", strings.NewReader(goodEnrol(t))))
			if resp.StatusCode != c.status || p.Code != c.code || !strings.Contains(p.Message, c.says) {
				t.Errorf("answered %s %v", resp.Status, p)
			}
			if strings.Contains(body, "/secret/path") {
				t.Errorf("an internal error got out: %s", body)
			}
			if logged := strings.Contains(s.log.String(), "/secret/path"); logged != (c.code == protocol.CodeUnavailable) {
				t.Errorf("logged: %q", s.log)
			}
			if resp.StatusCode == 429 && resp.Header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
		})
	}
}

// TestForwardedAddress is R25 as far as it concerns this package: what Enrol is told, and what limits count by.
func TestForwardedAddress(t *testing.T) {
	for name, c := range map[string]struct {
		proxies clientaddr.Proxies
		want    string
	}{
		"from a stranger, ignored":   {nil, "127.0.0.1"},
		"from our own proxy, counts": {clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8")}, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{TrustedProxies: c.proxies, Limits: Limits{PerSecond: 0.001, Burst: 1}})
			s.fake.enrol = func() (protocol.EnrolAnswer, error) { return protocol.EnrolAnswer{}, protocol.ErrSignature }
			for i, client := range []string{"192.0.2.1", "192.0.2.2"} {
				r := s.request(t, "POST", protocol.PathEnrol, "application/json", strings.NewReader(goodEnrol(t)))
				r.Header.Set("X-Forwarded-For", client)
				resp, _, _ := s.ask(t, r)
				if i == 0 && s.fake.from() != c.want {
					t.Errorf("came from %s, want %s", s.fake.from(), c.want)
				}
				if limited := resp.StatusCode == 429; limited != (i == 1 && c.proxies == nil) {
					t.Errorf("request %d of %s: %s", i, client, resp.Status)
				}
			}
		})
	}
}

// TestRateLimit is R15: every path counts, and says when to come back.
func TestRateLimit(t *testing.T) {
	s := serve(t, Config{Limits: Limits{PerSecond: 0.1, Burst: 2}})
	nonce := protocol.PathInfo + "?nonce=" + protocol.FormatClientNonce(make([]byte, 32))
	for range 2 {
		if resp, _, _ := s.ask(t, s.request(t, "GET", nonce, "", nil)); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
	}
	for _, path := range []string{nonce, protocol.PathEnrol, protocol.PathWait, protocol.PathSession, PathWebhook} {
		resp, p, _ := s.ask(t, s.request(t, "POST", path, "application/json", nil))
		if resp.StatusCode != 429 || p.Code != protocol.CodeThrottled {
			t.Errorf("%s beyond the limit: %s", path, resp.Status)
		}
		if after := resp.Header.Get("Retry-After"); after == "" || after == "0" {
			t.Errorf("%s: Retry-After is %q", path, after)
		}
	}
}

// TestWaitIsHeldWithinSlots: one address cannot hold all the requests there are.
func TestWaitIsHeldWithinSlots(t *testing.T) {
	s := serve(t, Config{Limits: Limits{WaitingOf: 1}})
	release, held := make(chan struct{}), make(chan struct{})
	s.fake.wait = func(ctx context.Context) (protocol.WaitAnswer, error) {
		close(held)
		<-release
		return protocol.WaitAnswer{State: protocol.TicketDenied, Message: "no"}, nil
	}
	ask := func() (*http.Response, string) {
		resp, _, body := s.ask(t, s.request(t, "POST", protocol.PathWait, "application/json", strings.NewReader(`{"ticket":"t","secret":"s"}`)))
		return resp, body
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if resp, body := ask(); resp.StatusCode != 200 || !strings.Contains(body, "denied") {
			t.Errorf("the held request: %s %s", resp.Status, body)
		}
	})
	<-held
	if resp, _ := ask(); resp.StatusCode != 429 {
		t.Errorf("a second one of the same address: %s", resp.Status)
	}
	close(release)
	wg.Wait()
}

// TestWaitEndsWithProgram: a node that waits is told to try again, not answered with nothing, which it took for a stranger's answer.
func TestWaitEndsWithProgram(t *testing.T) {
	s := serve(t, Config{})
	s.fake.wait = func(ctx context.Context) (protocol.WaitAnswer, error) {
		s.stop()
		<-ctx.Done()
		return protocol.WaitAnswer{}, ctx.Err()
	}
	resp, p, _ := s.ask(t, s.request(t, "POST", protocol.PathWait, "application/json", strings.NewReader(`{"ticket":"t","secret":"s"}`)))
	if resp.StatusCode != 503 || p.Code != protocol.CodeUnavailable || !strings.Contains(p.Message, "try again") {
		t.Errorf("%s %+v", resp.Status, p)
	}
}

func TestWebhook(t *testing.T) {
	const secret, body = "0123456789abcdef-secret", `{"ref":"refs/heads/main"}`
	sign := func(secret, body string) string {
		m := hmac.New(sha256.New, []byte(secret))
		m.Write([]byte(body))
		return "sha256=" + hex.EncodeToString(m.Sum(nil))
	}
	for name, c := range map[string]struct {
		header, value string
		status        int
	}{
		"nothing":                         {"X-Nothing", "", 403},
		"an empty signature":              {"X-Hub-Signature-256", "", 403},
		"a signature with another secret": {"X-Hub-Signature-256", sign("another", body), 403},
		"a signature of another body":     {"X-Hub-Signature-256", sign(secret, "{}"), 403},
		"a signature cut short":           {"X-Hub-Signature-256", sign(secret, body)[:40], 403},
		"a signature that is no hex":      {"X-Hub-Signature-256", "sha256=zz", 403},
		"the secret as a signature":       {"X-Hub-Signature-256", secret, 403},
		"an old SHA-1 signature":          {"X-Hub-Signature", "sha1=0000", 403},
		"another token":                   {"X-Gitlab-Token", "another", 403},
		"a longer token":                  {"X-Gitlab-Token", secret + "x", 403},
		"a shorter token":                 {"X-Gitlab-Token", secret[:20], 403},
		"another bearer":                  {"Authorization", "Bearer another", 403},
		"an empty bearer":                 {"Authorization", "Bearer ", 403},
		"basic authorization":             {"Authorization", "Basic " + secret, 403},
		"GitHub's signature":              {"X-Hub-Signature-256", sign(secret, body), 204},
		"GitLab's token":                  {"X-Gitlab-Token", secret, 204},
		"a bearer token":                  {"Authorization", "Bearer " + secret, 204},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{WebhookSecret: []byte(secret)})
			r := s.request(t, "POST", PathWebhook, "application/json", strings.NewReader(body))
			r.Header.Set(c.header, c.value)
			resp, _, _ := s.ask(t, r)
			if resp.StatusCode != c.status || (s.fake.called() == "poke") != (c.status == 204) {
				t.Errorf("answered %s, called %q", resp.Status, s.fake.called())
			}
		})
	}
	t.Run("a wrong signature beside a right token", func(t *testing.T) {
		s := serve(t, Config{WebhookSecret: []byte(secret)})
		r := s.request(t, "POST", PathWebhook, "application/json", strings.NewReader(body))
		r.Header.Set("X-Hub-Signature-256", sign("another", body))
		r.Header.Set("X-Gitlab-Token", secret)
		if resp, _, _ := s.ask(t, r); resp.StatusCode != 403 {
			t.Error(resp.Status)
		}
	})
	t.Run("more than 1 MiB", func(t *testing.T) {
		s := serve(t, Config{WebhookSecret: []byte(secret)})
		r := s.request(t, "POST", PathWebhook, "application/json", unsized{strings.NewReader(strings.Repeat(" ", maxWebhook+1))})
		r.Header.Set("X-Gitlab-Token", secret)
		if resp, _, _ := s.ask(t, r); resp.StatusCode != 413 || s.fake.called() != "" {
			t.Error(resp.Status, s.fake.called())
		}
	})
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a handler without a coordinator")
	}
	if _, err := New(Config{API: newFake(), WebhookSecret: []byte("short")}); err == nil {
		t.Error("a webhook secret of 5 bytes")
	}
}
