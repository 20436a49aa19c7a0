package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/clientaddr"
	"picket.internal/coordinator/protocol"
)

// with makes a request with a token.
func (s *server) with(t *testing.T, token, method, path string, body io.Reader) *http.Request {
	t.Helper()
	kind := ""
	if body != nil {
		kind = "application/json"
	}
	r := s.request(t, method, path, kind, body)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func policyBody(t *testing.T, text string) string {
	t.Helper()
	b, err := protocol.Marshal(protocol.PolicyText{Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPolicyNeedsAToken: none of these gets further than to the look at its token, and all are told the same.
func TestPolicyNeedsAToken(t *testing.T) {
	for _, path := range []string{protocol.PathPolicy, protocol.PathPolicyDirectory, protocol.PathPolicyImpact} {
		method := http.MethodGet
		if path == protocol.PathPolicyImpact {
			method = http.MethodPost
		}
		for name, change := range map[string]func(*http.Request){
			"no token":                   func(*http.Request) {},
			"a wrong one":                func(r *http.Request) { r.Header.Set("Authorization", "Bearer picket-token-wrong") },
			"an empty one":               func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
			"the right one, cut":         func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+rightToken[:20]) },
			"the right one as a user":    func(r *http.Request) { r.SetBasicAuth(rightToken, "") },
			"the right one by no scheme": func(r *http.Request) { r.Header.Set("Authorization", rightToken) },
			"the right one in a cookie":  func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "token", Value: rightToken}) },
			"the right one in the query": func(r *http.Request) { r.URL.RawQuery = "access_token=" + rightToken },
		} {
			t.Run(path+", "+name, func(t *testing.T) {
				s := serve(t, Config{})
				r := s.request(t, method, path, "application/json", strings.NewReader(policyBody(t, "{}")))
				change(r)
				resp, p, _ := s.ask(t, r)
				if resp.StatusCode != http.StatusUnauthorized || p.Code != protocol.CodeToken || p.Message != "no valid token" || resp.Header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("answered %s %+v", resp.Status, p)
				}
				if s.fake.called() != "token" {
					t.Errorf("called %s", s.fake.called())
				}
				if strings.Contains(s.log.String(), "picket-token") {
					t.Errorf("logged %s", s.log)
				}
			})
		}
	}
}

// TestPolicyRefusesBeforeTheCoordinator is R15: with a token, too, bodies are bounded, and methods and types are what they must be.
func TestPolicyRefusesBeforeTheCoordinator(t *testing.T) {
	large := `{"text":"` + strings.Repeat("A", protocol.MaxPolicyAsk) + `"}`
	for name, c := range map[string]struct {
		method, path, kind string
		body               io.Reader
		status             int
	}{
		"the policy by POST":                 {"POST", protocol.PathPolicy, "application/json", strings.NewReader("{}"), 405},
		"the directory by PUT":               {"PUT", protocol.PathPolicyDirectory, "application/json", strings.NewReader("{}"), 405},
		"an impact by GET":                   {"GET", protocol.PathPolicyImpact, "", nil, 405},
		"an impact from a form (cross-site)": {"POST", protocol.PathPolicyImpact, "application/x-www-form-urlencoded", strings.NewReader("{}"), 415},
		"an impact of what is too large":     {"POST", protocol.PathPolicyImpact, "application/json", strings.NewReader(large), 413},
		"the same, its length not told":      {"POST", protocol.PathPolicyImpact, "application/json", unsized{strings.NewReader(large)}, 413},
		"a policy of a byte over 1 MiB":      {"POST", protocol.PathPolicyImpact, "application/json", strings.NewReader(policyBody(t, strings.Repeat(" ", protocol.MaxPolicy+1))), 400},
		"an impact of no JSON":               {"POST", protocol.PathPolicyImpact, "application/json", strings.NewReader("{"), 400},
		"below the policy":                   {"GET", protocol.PathPolicy + "/keys", "", nil, 404},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{})
			r := s.request(t, c.method, c.path, c.kind, c.body)
			r.Header.Set("Authorization", "Bearer "+rightToken)
			if resp, _, body := s.ask(t, r); resp.StatusCode != c.status {
				t.Errorf("answered %s: %s", resp.Status, body)
			}
			if called := strings.TrimPrefix(s.fake.called(), "token"); called != "" {
				t.Errorf("the coordinator was asked: %s", called)
			}
		})
	}
}

func TestPolicyAnswers(t *testing.T) {
	s := serve(t, Config{})
	resp, _, body := s.ask(t, s.with(t, rightToken, "GET", protocol.PathPolicy, nil))
	var p protocol.PolicyInForce
	if err := protocol.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 200 {
		t.Errorf("%s: %v", resp.Status, err)
	}
	if d := cmp.Diff(protocol.PolicyInForce{Text: "{} // <a & b>", Commit: "c0ffee", Generation: 7}, p); d != "" {
		t.Error(d)
	}
	resp, _, body = s.ask(t, s.with(t, rightToken, "GET", protocol.PathPolicyDirectory, nil))
	if _, err := acl.ParseDirectory([]byte(body)); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %s: %v", resp.Status, body, err)
	}
	// The largest policy there is.
	resp, _, body = s.ask(t, s.with(t, rightToken, "POST", protocol.PathPolicyImpact, strings.NewReader(policyBody(t, strings.Repeat(" ", protocol.MaxPolicy)))))
	var i protocol.Impact
	if err := protocol.Unmarshal([]byte(body), &i); err != nil || resp.StatusCode != 200 || i.Live != protocol.MaxPolicy {
		t.Errorf("%s %s: %v", resp.Status, body, err)
	}
	if got := s.fake.called() + " " + s.fake.from(); got != "token policy token directory token impact 127.0.0.1 right 127.0.0.1 right 127.0.0.1 right" {
		t.Errorf("called %s", got)
	}
}

// TestPolicyErrorsComeWhole: every mistake in a policy arrives, not the first alone.
func TestPolicyErrorsComeWhole(t *testing.T) {
	s := serve(t, Config{})
	all := []acl.Diagnostic{{Severity: acl.SeverityError, Line: 1, Column: 2, Message: "one", Hint: "this"}, {Severity: acl.SeverityError, Line: 3, Column: 4, Message: "two"}}
	s.fake.impact = func(context.Context) (protocol.Impact, error) {
		return protocol.Impact{}, &coordinator.Error{Code: coordinator.CodeInvalid, Message: "not sound", Errors: all}
	}
	resp, p, _ := s.ask(t, s.with(t, rightToken, "POST", protocol.PathPolicyImpact, strings.NewReader(policyBody(t, "{"))))
	if d := cmp.Diff(all, p.Errors); d != "" || resp.StatusCode != 400 || p.Code != coordinator.CodeInvalid {
		t.Errorf("%s %+v %s", resp.Status, p, d)
	}
}

// TestWrongTokensAreLimited: who tried that often is not looked at any more, whatever comes; others are.
func TestWrongTokensAreLimited(t *testing.T) {
	s := serve(t, Config{Limits: Limits{WrongTokens: 3}, TrustedProxies: clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8")}})
	ask := func(from, token string) int {
		r := s.with(t, token, "GET", protocol.PathPolicy, nil)
		r.Header.Set("X-Forwarded-For", from)
		resp, _, _ := s.ask(t, r)
		if resp.StatusCode == 429 && (resp.Header.Get("Retry-After") == "" || resp.Header.Get("Retry-After") == "0") {
			t.Error("429 without Retry-After")
		}
		return resp.StatusCode
	}
	for range 10 { // what is right costs nothing
		if got := ask("192.0.2.1", rightToken); got != 200 {
			t.Fatal(got)
		}
	}
	for range 3 {
		if got := ask("192.0.2.1", "picket-token-wrong"); got != 401 {
			t.Fatal(got)
		}
	}
	looked := strings.Count(s.fake.called(), "token")
	for _, token := range []string{"picket-token-wrong", rightToken, ""} {
		if got := ask("192.0.2.1", token); got != 429 {
			t.Errorf("after three wrong ones: %d", got)
		}
	}
	if now := strings.Count(s.fake.called(), "token"); now != looked {
		t.Errorf("%d more were looked at", now-looked)
	}
	if got := ask("192.0.2.2", rightToken); got != 200 {
		t.Errorf("another address: %d", got)
	}
	s.fake.token = errors.New("sqlite: /secret/path")
	for range 5 { // our failures are not the caller's
		if got := ask("192.0.2.3", rightToken); got != 503 {
			t.Errorf("a broken database: %d", got)
		}
	}
}

// TestPolicyAskingIsCapped: one address cannot have the coordinator judge more than its share at once.
func TestPolicyAskingIsCapped(t *testing.T) {
	s := serve(t, Config{Limits: Limits{AskingOf: 1}})
	held, release := make(chan struct{}), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free) // before the server's, which waits for the request
	s.fake.impact = func(ctx context.Context) (protocol.Impact, error) {
		if end, ok := ctx.Deadline(); !ok || time.Until(end) > protocol.ImpactHold {
			t.Errorf("held until %s", end)
		}
		close(held)
		<-release
		return protocol.Impact{}, nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if resp, _, body := s.ask(t, s.with(t, rightToken, "POST", protocol.PathPolicyImpact, strings.NewReader(policyBody(t, "{}")))); resp.StatusCode != 200 {
			t.Errorf("the held request: %s %s", resp.Status, body)
		}
	})
	<-held
	if resp, _, _ := s.ask(t, s.with(t, rightToken, "GET", protocol.PathPolicy, nil)); resp.StatusCode != 429 {
		t.Errorf("a second one: %s", resp.Status)
	}
	if resp, _, _ := s.ask(t, s.with(t, "", "GET", protocol.PathPolicy, nil)); resp.StatusCode != 401 {
		t.Errorf("one without a token: %s", resp.Status)
	}
	free()
	wg.Wait()
	if resp, _, _ := s.ask(t, s.with(t, rightToken, "GET", protocol.PathPolicy, nil)); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}
