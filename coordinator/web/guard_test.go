package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeadersOnEveryAnswer(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	want := map[string]string{
		"Content-Security-Policy":      "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
		"Referrer-Policy":              "no-referrer",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control":                "no-store",
		"Strict-Transport-Security":    "",
	}
	for name, a := range map[string]got{
		"page": p.get("/"), "sign-in page": w.person().get("/login"), "redirect": w.person().get("/nodes"), "missing": p.get("/nothing"),
		"refused": p.send("POST", "/logout", nil, ""), "wrong method": p.post("/audit"), "problem": p.get("/nodes/nope"), "setup": p.get("/setup/nope"),
	} {
		t.Run(name, func(t *testing.T) {
			have := map[string]string{}
			for k := range want {
				have[k] = a.header.Get(k)
			}
			if d := cmp.Diff(want, have); d != "" {
				t.Errorf("headers (-want +have):\n%s", d)
			}
		})
	}
}

func TestHSTSOnlyWhenAskedFor(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HSTS = true })
	if h := w.person().get("/login").header.Get("Strict-Transport-Security"); h != "max-age=31536000" {
		t.Errorf("Strict-Transport-Security %q", h)
	}
}

// TestRefusesCrossSiteForms is the matrix of R24: what a browser says of where a form comes from, against whether it is taken.
func TestRefusesCrossSiteForms(t *testing.T) {
	w := newWorld(t)
	own := w.srv.URL
	for _, c := range []struct {
		name       string
		site, from string
		refused    bool
	}{
		{"neither header", "", "", true},
		{"cross-site", "cross-site", "https://evil.example", true},
		{"cross-site that claims our origin", "cross-site", own, true},
		{"sibling", "same-site", "https://other.example.com", true},
		{"null origin", "", "null", true},
		{"foreign origin without fetch metadata", "", "https://evil.example", true},
		{"own host, other port", "", "https://127.0.0.1:1", true},
		{"own page", "same-origin", own, false},
		{"own page of an older browser", "", own, false},
		{"own page under no-referrer", "same-origin", "null", false},
		{"typed by the person", "none", "", false},
	} {
		for _, path := range []string{"/logout", "/nodes/n1/quarantine", "/login", "/join/t1/deny", "/setup/x"} {
			t.Run(c.name+" "+path, func(t *testing.T) {
				w.api.fail["QuarantineNode"] = refuse("conflict", "reached")
				p := w.signedIn(adminLogin)
				header := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
				if c.site != "" {
					header["Sec-Fetch-Site"] = c.site
				}
				if c.from != "" {
					header["Origin"] = c.from
				}
				a := p.send("POST", path, header, "")
				if refused := strings.Contains(a.body, "did not come from Picket"); refused != c.refused || refused != (refused && a.status == http.StatusForbidden) {
					t.Errorf("refused %v with status %d, want refused %v", refused, a.status, c.refused)
				}
			})
		}
	}
}

func TestRefusesOtherHosts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Hosts = []string{"picket.example.com", "127.0.0.1", "::1"} })
	for host, status := range map[string]int{
		"evil.example": 421, "evil.example:8443": 421, "picket.example.com.evil.example": 421, "localhost": 421, "127.0.0.2": 421, "[::2]:8443": 421,
		"picket.example.com.": 421,
		"picket.example.com":  200, "PICKET.example.com:8443": 200, "127.0.0.1:8443": 200, "[::1]:8443": 200, "[::1]": 200,
	} {
		t.Run(host, func(t *testing.T) {
			w.person().send("GET", "/login", map[string]string{"Host": host}, "").want(t, status)
		})
	}
}

func TestRefusesWhatIsNoSmallForm(t *testing.T) {
	w := newWorld(t)
	same := map[string]string{"Sec-Fetch-Site": "same-origin"}
	with := func(contentType string) map[string]string {
		return map[string]string{"Sec-Fetch-Site": same["Sec-Fetch-Site"], "Content-Type": contentType}
	}
	const urlencoded = "application/x-www-form-urlencoded"
	p := w.person()
	p.send("POST", "/login", with(urlencoded), "login="+strings.Repeat("a", maxBody)).want(t, http.StatusRequestEntityTooLarge, "<h1>That is too much at once")
	p.send("POST", "/login", with("multipart/form-data; boundary=x"), "--x--").want(t, http.StatusUnsupportedMediaType)
	p.send("POST", "/login", with("application/json"), "{}").want(t, http.StatusUnsupportedMediaType)
	p.send("POST", "/login", same, "login=x").want(t, http.StatusUnsupportedMediaType)
	p.send("POST", "/login", with(urlencoded), "login=%zz").want(t, http.StatusUnprocessableEntity, "could not be read")
	if w.api.called("SignIn") {
		t.Error("an unreadable form reached the coordinator")
	}
}

// TestRefusesLongFormOfUnknownLength sends in chunks, so that no length is announced.
func TestRefusesLongFormOfUnknownLength(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequest("POST", w.srv.URL+"/login", strings.NewReader("login="+strings.Repeat("a", maxBody)))
	r.ContentLength = -1
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	rec := httptest.NewRecorder()
	w.srv.Config.Handler.ServeHTTP(rec, r)
	if rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", rec.Code)
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	good := newWorld(t)
	for name, change := range map[string]func(*Config){
		"no coordinator":     func(c *Config) { c.API = nil },
		"no session store":   func(c *Config) { c.Sessions = nil },
		"no URL":             func(c *Config) { c.URL = "" },
		"URL with a path":    func(c *Config) { c.URL = "https://picket.example.com/x" },
		"URL with a user":    func(c *Config) { c.URL = "https://u@picket.example.com" },
		"URL of a file":      func(c *Config) { c.URL = "file:///etc" },
		"host with a port":   func(c *Config) { c.Hosts = []string{"picket.example.com:443"} },
		"host with a scheme": func(c *Config) { c.Hosts = []string{"https://picket.example.com"} },
		"empty host":         func(c *Config) { c.Hosts = []string{""} },
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{API: good.api, Sessions: good.store, URL: "https://picket.example.com"}
			change(&c)
			if _, err := New(c); err == nil {
				t.Error("taken")
			}
		})
	}
}
