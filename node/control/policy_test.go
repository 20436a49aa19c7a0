package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/protocol"
)

const testToken = "picket-token-abcdefghijklm-secret0123456789"

// askInForce asks for the policy in force with testToken.
func askInForce(t *testing.T, cl *Client) error {
	t.Helper()
	p, err := cl.Policy(t.Context(), testToken)
	if err != nil {
		return err
	}
	_, err = p.InForce(t.Context())
	return err
}

// policyServer is a coordinator that takes testToken alone, and a client that asks it.
func policyServer(t *testing.T) (*coord, *PolicyClient) {
	t.Helper()
	c := newCoord()
	c.actor = func(token string) error {
		if token != testToken {
			return &coordinator.Error{Code: protocol.CodeToken, Message: "no valid token"}
		}
		return nil
	}
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	p, err := newClient(t, Config{Join: c.join(at)}).Policy(t.Context(), testToken)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

func TestPolicyAsks(t *testing.T) {
	c, p := policyServer(t)
	in, err := p.InForce(t.Context())
	if d := cmp.Diff(protocol.PolicyInForce{Text: "{}", Generation: 7}, in); d != "" || err != nil {
		t.Error(d, err)
	}
	text, err := p.Directory(t.Context())
	if string(text) != `{"nodes": []}` || err != nil {
		t.Errorf("%s, %v", text, err)
	}
	i, err := p.Impact(t.Context(), []byte("{} // é"))
	if i.Live != 1 || err != nil {
		t.Errorf("%+v, %v", i, err)
	}
	if got := strings.Join(c.calls, ", "); got != "info, token, in force, token, directory, token, impact of {} // é" {
		t.Error(got)
	}
}

func TestPolicyRefused(t *testing.T) {
	c, p := policyServer(t)
	p.token += "x"
	_, err := p.InForce(t.Context())
	var problem *ProblemError
	if !errors.As(err, &problem) || problem.Code != protocol.CodeToken {
		t.Errorf("a wrong token: %v", err)
	}
	for _, bad := range []string{"", "secret", testToken + "\r\nX-Evil: 1"} {
		if _, err := p.client.Policy(t.Context(), bad); err == nil || strings.Contains(err.Error(), "secret") || errors.As(err, &problem) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if n := c.count("info"); n != 1 {
		t.Errorf("asked %d times, though what was given is no token", n-1)
	}
	p.token = testToken
	c.with(func() {
		c.policy = func(string) (protocol.Impact, error) {
			return protocol.Impact{}, &coordinator.Error{Code: coordinator.CodeInvalid, Message: "not sound", Errors: []acl.Diagnostic{
				{Severity: acl.SeverityError, Line: 1, Column: 2, Message: "one\x1b[2J"}, {Severity: acl.SeverityError, Line: 3, Column: 4, Message: "two", Hint: "so"}}}
		}
	})
	_, err = p.Impact(t.Context(), []byte("{"))
	if !errors.As(err, &problem) || len(problem.Errors) != 2 || problem.Errors[0].Message != "one[2J" || problem.Errors[1].Line != 3 {
		t.Errorf("an unsound policy: %+v", err)
	}
}

// TestPolicyWaitsForABusyCoordinator, but not for ever.
func TestPolicyWaitsForABusyCoordinator(t *testing.T) {
	c, p := policyServer(t)
	busy := 2
	c.with(func() {
		c.policy = func(string) (protocol.Impact, error) {
			if busy--; busy < 0 {
				return protocol.Impact{}, nil
			}
			return protocol.Impact{}, &coordinator.Error{Code: protocol.CodeThrottled, Message: "slowly"}
		}
	})
	if _, err := p.InForce(t.Context()); err != nil {
		t.Error(err)
	}
	c.with(func() { busy = 1 << 10 })
	_, err := p.InForce(t.Context())
	var problem *ProblemError
	if !errors.As(err, &problem) || problem.Code != protocol.CodeThrottled || c.count("in force") != 2*maxAsks {
		t.Errorf("%v after %d askings", err, c.count("in force")-maxAsks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.with(func() {
		c.policy = func(string) (protocol.Impact, error) {
			cancel()
			return protocol.Impact{}, &coordinator.Error{Code: protocol.CodeThrottled, Message: "slowly"}
		}
	})
	if _, err := p.InForce(ctx); err == nil {
		t.Error("given up, and no error")
	}
}

// TestPolicyAnswersAreBounded: what is no coordinator's answer, or larger than any, is refused.
func TestPolicyAnswersAreBounded(t *testing.T) {
	c := newCoord()
	c.actor = func(string) error { return nil }
	real, err := httpapi.New(httpapi.Config{API: c})
	if err != nil {
		t.Fatal(err)
	}
	answer := []byte("{")
	at, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == protocol.PathInfo {
			real.ServeHTTP(w, r)
			return
		}
		_, _ = w.Write(answer)
	}), &tls.Config{Certificates: []tls.Certificate{c.self(t)}}, "127.0.0.1:0")
	p, err := newClient(t, Config{Join: c.join(at)}).Policy(t.Context(), testToken)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"no JSON":       []byte("<html>"),
		"out of bounds": []byte(`{"live": 1, "cut": 2}`),
		"too large":     append([]byte("{}"), bytes.Repeat([]byte(" "), protocol.MaxPolicyGet)...),
	} {
		answer = text
		if _, err := p.Impact(t.Context(), nil); !errors.Is(err, ErrNotPicket) {
			t.Errorf("%s: %v", name, err)
		}
	}
	answer = bytes.Repeat([]byte(" "), protocol.MaxDirectory+1)
	if _, err := p.Directory(t.Context()); !errors.Is(err, ErrNotPicket) {
		t.Errorf("a directory that is too large: %v", err)
	}
}
