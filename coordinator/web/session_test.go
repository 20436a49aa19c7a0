package web

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"

	"picket.internal/coordinator"
)

func TestCookieOfASession(t *testing.T) {
	w := newWorld(t)
	p := w.person()
	a := p.post("/login", "login", adminLogin, "password", goodPass, "code", w.api.code(t, adminLogin), "next", "/nodes")
	a.wantRedirect(t, "/nodes")
	c, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "__Host-picket" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 43 {
		t.Errorf("cookie %v", c)
	}
	for _, path := range []string{"/login", "/static/picket.css"} {
		if set := w.person().get(path).header.Get("Set-Cookie"); set != "" {
			t.Errorf("%s sets a cookie for nobody: %s", path, set)
		}
	}
}

func TestStoreNeverSeesTheCookiesValue(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	all, err := w.store.(*memstore.MemStore).All()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d sessions, %v", len(all), err)
	}
	if _, there := all[p.cookie()]; there {
		t.Error("the store holds the cookie's own value: whoever reads it can sign in")
	}
}

// TestSignInRenewsTheSession plants a session in the browser first, as an attacker would: it must be worth nothing afterwards.
func TestSignInRenewsTheSession(t *testing.T) {
	w := newWorld(t)
	w.api.invitations["tok"] = coordinator.Invitation{Login: "carol@example.com", Role: coordinator.RoleMember, Expires: time.Now().Add(time.Hour)}
	p := w.person()
	p.post("/setup/tok/begin")
	planted := p.cookie()
	if planted == "" {
		t.Fatal("no session before signing in")
	}
	p.post("/login", "login", adminLogin, "password", goodPass, "code", w.api.code(t, adminLogin)).wantRedirect(t, "/")
	if p.cookie() == planted {
		t.Error("the session kept its name over the sign-in")
	}
	p.get("/setup/tok/qr").want(t, http.StatusNotFound) // nor is anything left in it
	w.person().send("GET", "/nodes", map[string]string{"Cookie": "__Host-picket=" + planted}, "").wantRedirect(t, "/login?next=%2Fnodes")
}

func TestSignOutEndsTheSessionForEveryCopy(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	copied := p.cookie()
	p.get("/nodes").want(t, http.StatusOK)
	p.post("/logout").wantRedirect(t, "/login")
	if p.cookie() != "" {
		t.Error("the browser kept its cookie")
	}
	w.person().send("GET", "/nodes", map[string]string{"Cookie": "__Host-picket=" + copied}, "").wantRedirect(t, "/login?next=%2Fnodes")
}

// TestSignOutOutlivesARequestInFlight: a page that was being made during the sign-out must not write the session back.
func TestSignOutOutlivesARequestInFlight(t *testing.T) {
	store := &lastingEnd{store: memstore.NewWithCleanupInterval(0), ended: map[string]time.Time{}}
	later := time.Now().Add(time.Hour)
	if err := store.Commit("s", []byte("in"), later); err != nil {
		t.Fatal(err)
	}
	if err := store.DeleteCtx(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if err := store.CommitCtx(t.Context(), "s", []byte("in"), later); err != nil {
		t.Fatal(err)
	}
	if _, found, _ := store.FindCtx(t.Context(), "s"); found {
		t.Error("the session is back")
	}
	if err := store.Commit("other", []byte("in"), later); err != nil {
		t.Fatal(err)
	}
	if _, found, _ := store.Find("other"); !found {
		t.Error("another session was not stored")
	}
}

// TestRemovedPersonIsOut is R26: the account goes, and the next click with it.
func TestRemovedPersonIsOut(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(memberLogin)
	p.get("/").want(t, http.StatusOK)
	w.api.mu.Lock()
	delete(w.api.users, "u2")
	w.api.mu.Unlock()
	p.get("/").wantRedirect(t, "/login?next=%2F")
	if p.cookie() != "" {
		t.Error("the browser kept its cookie")
	}
}

func TestAccountThatIsNotActiveIsOut(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(memberLogin)
	u := w.api.users["u2"]
	u.State = "invited"
	w.api.users["u2"] = u
	p.get("/").wantRedirect(t, "/login?next=%2F")
}

// TestLostRoleBitesAtOnce is R26 for roles.
func TestLostRoleBitesAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.get("/users").want(t, http.StatusOK)
	u := w.api.users["u1"]
	u.Role = coordinator.RoleMember
	w.api.users["u1"] = u
	p.get("/users").want(t, http.StatusForbidden, "for administrators")
	p.post("/nodes/n1/remove").want(t, http.StatusForbidden)
	if w.api.called("RemoveNode") {
		t.Error("a former administrator removed a node")
	}
}

// TestUnknownAccountIsNobody: when the coordinator cannot say who it is, nothing is shown (R21).
func TestUnknownAccountIsNobody(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	w.api.fail["UserByID"] = errors.New("disk on fire")
	a := p.get("/nodes")
	a.want(t, http.StatusInternalServerError, "Something went wrong on our side")
	if strings.Contains(a.body, "ada-laptop") || strings.Contains(a.body, "disk on fire") {
		t.Errorf("the page shows too much:\n%s", a.body)
	}
}

// TestSessionEndsWithTime: after an hour without use, and after twelve in any case.
func TestSessionEndsWithTime(t *testing.T) {
	for name, c := range map[string]struct {
		every, last time.Duration
		clicks      int
		in          bool
	}{
		"59 minutes idle":            {last: 59 * time.Minute, in: true},
		"62 minutes idle":            {last: 62 * time.Minute, in: false},
		"used for 11 hours":          {every: 30 * time.Minute, clicks: 22, in: true},
		"used for 12 hours and more": {every: 30 * time.Minute, clicks: 24, last: time.Minute, in: false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newFake(t)
				h, err := New(Config{API: api, Sessions: memstore.NewWithCleanupInterval(0), URL: "https://picket.example.com"})
				if err != nil {
					t.Fatal(err)
				}
				cookie := signInDirectly(t, h, api)
				for range c.clicks {
					time.Sleep(c.every)
					askDirectly(h, cookie)
				}
				time.Sleep(c.last)
				if in := askDirectly(h, cookie) == http.StatusOK; in != c.in {
					t.Errorf("still in: %v, want %v", in, c.in)
				}
			})
		})
	}
}

func signInDirectly(t *testing.T, h http.Handler, api *fake) *http.Cookie {
	t.Helper()
	r := httptest.NewRequest("POST", "https://picket.example.com/login", strings.NewReader(form("login", adminLogin, "password", goodPass, "code", api.code(t, adminLogin))))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	cookies := rec.Result().Cookies()
	if len(cookies) != 1 {
		t.Fatalf("status %d, %d cookies", rec.Code, len(cookies))
	}
	return cookies[0]
}

func askDirectly(h http.Handler, cookie *http.Cookie) int {
	r := httptest.NewRequest("GET", "https://picket.example.com/nodes", nil)
	r.AddCookie(cookie)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Code
}

// brokenStore fails from some moment on.
type brokenStore struct {
	scs.Store
	reads, writes bool
}

var errStore = errors.New("no space left on device")

func (b *brokenStore) Find(token string) ([]byte, bool, error) {
	if b.reads {
		return nil, false, errStore
	}
	return b.Store.Find(token)
}

func (b *brokenStore) Commit(token string, v []byte, expiry time.Time) error {
	if b.writes {
		return errStore
	}
	return b.Store.Commit(token, v, expiry)
}

func (b *brokenStore) Delete(token string) error {
	if b.writes {
		return errStore
	}
	return b.Store.Delete(token)
}

func TestSessionStoreThatFails(t *testing.T) {
	store := &brokenStore{Store: memstore.NewWithCleanupInterval(0)}
	w := newWorld(t, func(c *Config) { c.Sessions = store })
	p := w.signedIn(adminLogin)
	store.writes = true
	a := p.post("/logout")
	a.want(t, http.StatusInternalServerError, "Something went wrong on our side")
	a = w.person().post("/login", "login", adminLogin, "password", goodPass, "code", w.api.code(t, adminLogin))
	a.want(t, http.StatusInternalServerError)
	if a.header.Get("Set-Cookie") != "" {
		t.Error("a session that was not stored got its cookie")
	}
	store.reads = true
	p.get("/nodes").want(t, http.StatusInternalServerError)
	p.get("/static/picket.css?v=1").want(t, http.StatusOK)
}

// TestPagesGoOnWithAFullDisk: that a session was used cannot be stored, and the page is shown all the same.
func TestPagesGoOnWithAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, store := newFake(t), &brokenStore{Store: memstore.NewWithCleanupInterval(0)}
		h, err := New(Config{API: api, Sessions: store, URL: "https://picket.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		cookie := signInDirectly(t, h, api)
		store.writes = true
		time.Sleep(2 * touchEvery)
		if status := askDirectly(h, cookie); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	})
}

func TestPlainHTTPHasAnotherCookie(t *testing.T) {
	api := newFake(t)
	h, err := New(Config{API: api, Sessions: memstore.NewWithCleanupInterval(0), URL: "http://127.0.0.1:8080"})
	if err != nil {
		t.Fatal(err)
	}
	if c := signInDirectly(t, h, api); c.Name != "picket" || c.Secure || !c.HttpOnly {
		t.Errorf("cookie %v", c)
	}
}
