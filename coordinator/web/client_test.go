package web

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
)

// world is the pages on a loopback server, over TLS as in earnest.
type world struct {
	t     testing.TB
	api   *fake
	store scs.Store
	srv   *httptest.Server
	log   *bytes.Buffer
}

// newWorld starts the pages; change may alter the configuration first.
func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, api: newFake(t), store: memstore.NewWithCleanupInterval(0), log: &bytes.Buffer{}}
	w.srv = httptest.NewUnstartedServer(nil)
	w.srv.StartTLS()
	t.Cleanup(w.srv.Close)
	c := Config{API: w.api, Sessions: w.store, URL: w.srv.URL, Join: w.srv.URL + "#FINGERPRINT", Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&c)
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.srv.Config.Handler = h
	return w
}

// person is a browser with its own cookies that follows no redirect by itself.
type person struct {
	w      *world
	client *http.Client
}

func (w *world) person() *person {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	c := *w.srv.Client()
	c.Jar = jar
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &person{w, &c}
}

// signedIn is a person who is.
func (w *world) signedIn(login string) *person {
	w.t.Helper()
	p := w.person()
	if a := p.post("/login", "login", login, "password", goodPass, "code", w.api.code(w.t, login)); a.status != http.StatusSeeOther {
		w.t.Fatalf("sign in as %s: %d %s", login, a.status, a.body)
	}
	return p
}

// got is an answer, read to its end.
type got struct {
	status int
	header http.Header
	body   string
}

func (a got) location() string { return a.header.Get("Location") }

func (p *person) send(method, path string, header map[string]string, body string) got {
	p.w.t.Helper()
	r, err := http.NewRequest(method, p.w.srv.URL+path, strings.NewReader(body))
	if err != nil {
		p.w.t.Fatal(err)
	}
	for k, v := range header {
		if k == "Host" {
			r.Host = v
			continue
		}
		r.Header.Set(k, v)
	}
	resp, err := p.client.Do(r)
	if err != nil {
		p.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return got{resp.StatusCode, resp.Header, string(b)}
}

func (p *person) get(path string) got {
	p.w.t.Helper()
	return p.send(http.MethodGet, path, nil, "")
}

// post sends a form as a browser does from our own page.
func (p *person) post(path string, fields ...string) got {
	p.w.t.Helper()
	return p.send(http.MethodPost, path, map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", "Origin": p.w.srv.URL,
	}, form(fields...))
}

func form(fields ...string) string {
	v := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		v.Add(fields[i], fields[i+1])
	}
	return v.Encode()
}

// cookie is the session cookie's value; empty when there is none.
func (p *person) cookie() string {
	u, _ := url.Parse(p.w.srv.URL)
	for _, c := range p.client.Jar.Cookies(u) {
		if c.Name == cookieSecure {
			return c.Value
		}
	}
	return ""
}

// want checks an answer's status and that each text stands in its body.
func (a got) want(t testing.TB, status int, texts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d; body:\n%s", a.status, status, a.body)
		return
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			t.Errorf("the page lacks %q:\n%s", text, a.body)
		}
	}
}

// wantRedirect checks where an answer leads.
func (a got) wantRedirect(t testing.TB, to string) {
	t.Helper()
	if a.status != http.StatusSeeOther || a.location() != to {
		t.Errorf("status %d to %q, want 303 to %q; body:\n%s", a.status, a.location(), to, a.body)
	}
}
