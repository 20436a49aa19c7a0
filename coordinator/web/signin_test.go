package web

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"picket.internal/coordinator/protocol"
)

// TestNoOpenRedirect is the table of ways out that "next" must not offer, before and after signing in.
func TestNoOpenRedirect(t *testing.T) {
	w := newWorld(t)
	in := w.signedIn(adminLogin)
	for next, want := range map[string]string{
		"":                              "/",
		"//evil.example":                "/",
		"///evil.example":               "/",
		`/\evil.example`:                "/",
		`\\evil.example`:                "/",
		`/\/evil.example`:               "/",
		`/x\..\..\evil`:                 "/",
		"https://evil.example":          "/",
		"https:evil.example":            "/",
		"javascript:alert(1)":           "/",
		"data:text/html,x":              "/",
		"evil.example":                  "/",
		"nodes":                         "/",
		"/\t/evil.example":              "/",
		"/\n/evil.example":              "/",
		"\t//evil.example":              "/",
		" //evil.example":               "/",
		"/\x00/evil.example":            "/",
		"/\u007f":                       "/",
		"/ /evil.example":               "/",
		"/%":                            "/",
		"/" + strings.Repeat("a", 2000): "/",
		"/nodes":                        "/nodes",
		"/join/abc?x=1":                 "/join/abc?x=1",
		"/%2f%2fevil.example":           "/%2f%2fevil.example", // a path of ours that is not there
	} {
		t.Run(next, func(t *testing.T) {
			in.get("/login?next="+url.QueryEscape(next)).wantRedirect(t, want)
			w.person().post("/login", "login", adminLogin, "password", goodPass, "code", w.api.code(t, adminLogin), "next", next).wantRedirect(t, want)
		})
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/", "//e", `/\e`, "https://e", "/a?b#c", "/%5c%5ce", "/\u2028/e", "/@e"} {
		f.Add(s)
	}
	base, err := url.Parse("https://picket.example.com/login")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := localPath(s)
		u, err := base.Parse(got)
		if err != nil {
			t.Fatalf("%q became %q, which does not parse: %v", s, got, err)
		}
		if u.Host != base.Host || u.Scheme != base.Scheme || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\t\x00 ") {
			t.Fatalf("%q became %q, which leads to %s", s, got, u)
		}
	})
}

func TestSignInRefusals(t *testing.T) {
	w := newWorld(t)
	code := w.api.code(t, adminLogin)
	const wrong = "E-mail, password or code is not right."
	for name, c := range map[string]struct {
		login, password, code string
		status                int
		text                  string
	}{
		"unknown e-mail": {"nobody@example.com", goodPass, code, 403, wrong},
		"wrong password": {adminLogin, "guess", code, 403, wrong},
		"wrong code":     {adminLogin, goodPass, "000000", 403, wrong},
		"no e-mail":      {"", goodPass, code, 422, "Type your e-mail address."},
		"no password":    {adminLogin, "", code, 422, "Type your password."},
		"no code":        {adminLogin, goodPass, "", 422, "or a recovery code."},
		"huge password":  {adminLogin, strings.Repeat("x", 2000), code, 422, "Type your password."},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.person()
			a := p.post("/login", "login", c.login, "password", c.password, "code", c.code, "next", "/join/t1")
			a.want(t, c.status, c.text, `value="/join/t1"`)
			if p.cookie() != "" {
				t.Error("a refused sign-in got a session")
			}
			for _, secret := range []string{c.password, c.code} {
				if secret != "" && strings.Contains(a.body, secret) {
					t.Error("the page repeats a secret")
				}
			}
		})
	}
}

// TestSignInRefusalsLookAlike: the pages for an unknown address and for a wrong password are the same to the byte.
func TestSignInRefusalsLookAlike(t *testing.T) {
	w := newWorld(t)
	a := w.person().post("/login", "login", "eve@example.com", "password", "guess", "code", "000000")
	b := w.person().post("/login", "login", adminLogin, "password", "guess", "code", "000000")
	if a.status != b.status || strings.ReplaceAll(a.body, "eve@example.com", "X") != strings.ReplaceAll(b.body, adminLogin, "X") {
		t.Errorf("they differ:\n%s\n%s", a.body, b.body)
	}
}

func TestThrottledSignInSaysWhenToTryAgain(t *testing.T) {
	w := newWorld(t)
	w.api.fail["SignIn"] = refuse(protocol.CodeThrottled, "Too many tries: wait until 09:41 UTC, then sign in again.")
	w.person().post("/login", "login", adminLogin, "password", goodPass, "code", "123456").
		want(t, http.StatusTooManyRequests, "wait until 09:41 UTC")
}

// TestNoSecretInTheLog fails everything that can fail, and looks for what was typed, and for tokens that stand in addresses.
func TestNoSecretInTheLog(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("disk on fire")
	w.api.fail = map[string]error{"SignIn": broken, "Invitation": broken, "Ticket": broken}
	p := w.person()
	a := p.post("/login", "login", adminLogin, "password", "hunter2-password", "code", "918273", "next", "/join/secret-ticket")
	a.want(t, http.StatusInternalServerError)
	p.get("/setup/secret-token").want(t, http.StatusInternalServerError)
	p.send("POST", "/setup/secret-token", nil, "password=hunter2-password")
	p.get("/nothing/secret-token")
	log := w.log.String()
	for _, secret := range []string{"hunter2", "918273", "secret-token", "secret-ticket"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q:\n%s", secret, log)
		}
	}
	if !strings.Contains(log, "disk on fire") {
		t.Errorf("the log does not say what failed:\n%s", log)
	}
	_, after, _ := strings.Cut(a.body, "the number ")
	if id, _, _ := strings.Cut(after, ","); len(id) != 8 || !strings.Contains(log, "id="+id) {
		t.Errorf("the page's number %q is not in the log:\n%s", id, log)
	}
}

func TestHandlerThatPanicsStillAnswers(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.API = panicking{c.API} })
	w.person().post("/login", "login", adminLogin, "password", goodPass, "code", "1").want(t, http.StatusInternalServerError, "Something went wrong on our side")
	if !strings.Contains(w.log.String(), "panic: kaboom") {
		t.Errorf("log:\n%s", w.log)
	}
}

func TestClientAddressReachesTheCoordinator(t *testing.T) {
	seen := make(chan netip.Addr, 1)
	w := newWorld(t, func(c *Config) {
		c.API = witness{c.API, seen}
		c.ClientAddr = func(*http.Request) netip.Addr { return netip.MustParseAddr("198.51.100.9") }
	})
	w.person().post("/login", "login", adminLogin, "password", goodPass, "code", "1")
	if a := <-seen; a != netip.MustParseAddr("198.51.100.9") {
		t.Errorf("sign-in from %s", a)
	}
}
