package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/coordinator"
)

// TestEveryRouteAsEverybody walks the router's own table (R32), so a route that is added without a line here fails. The answers are
// those of nobody, a member and an administrator: "in" came through to the page, "sign-in" was sent there, "refused" got 403.
func TestEveryRouteAsEverybody(t *testing.T) {
	const in, login, refused = "in", "sign-in", "refused"
	want := map[string][3]string{
		"GET /static/{file}":            {in, in, in},
		"GET /setup/{token}":            {in, in, in},
		"POST /setup/{token}/begin":     {in, in, in},
		"GET /setup/{token}/qr":         {in, in, in},
		"POST /setup/{token}":           {in, in, in},
		"GET /login":                    {in, in, in},
		"POST /login":                   {in, in, in},
		"POST /logout":                  {login, in, in},
		"GET /join/{ticket}":            {login, in, in},
		"POST /join/{ticket}":           {login, in, in},
		"POST /join/{ticket}/deny":      {login, in, in},
		"GET /{$}":                      {login, in, in},
		"GET /nodes":                    {login, refused, in},
		"GET /nodes/{node}":             {login, refused, in},
		"GET /nodes/{node}/rename":      {login, refused, in},
		"POST /nodes/{node}/rename":     {login, refused, in},
		"GET /nodes/{node}/quarantine":  {login, refused, in},
		"POST /nodes/{node}/quarantine": {login, refused, in},
		"GET /nodes/{node}/release":     {login, refused, in},
		"POST /nodes/{node}/release":    {login, refused, in},
		"GET /nodes/{node}/remove":      {login, refused, in},
		"POST /nodes/{node}/remove":     {login, refused, in},
		"GET /changes/{generation}":     {login, refused, in},
		"GET /users":                    {login, refused, in},
		"POST /users":                   {login, refused, in},
		"GET /users/{login}/remove":     {login, refused, in},
		"POST /users/{login}/remove":    {login, refused, in},
		"GET /keys":                     {login, refused, in},
		"POST /keys":                    {login, refused, in},
		"GET /keys/{key}/revoke":        {login, refused, in},
		"POST /keys/{key}/revoke":       {login, refused, in},
		"GET /policy":                   {login, refused, in},
		"POST /policy/reload":           {login, refused, in},
		"GET /audit":                    {login, refused, in},
	}
	have := map[string][3]string{}
	for _, rt := range (&site{}).routes() {
		var row [3]string
		for i, who := range []string{"", memberLogin, adminLogin} {
			row[i] = visitRoute(t, rt, who)
		}
		have[rt.method+" "+rt.pattern] = row
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("who gets where (-want +have):\n%s", d)
	}
}

// visitRoute asks for a route in a world of its own.
func visitRoute(t *testing.T, rt route, who string) string {
	t.Helper()
	w := newWorld(t)
	w.api.invitations["tok"] = coordinator.Invitation{Login: "carol@example.com", Role: coordinator.RoleMember, Expires: time.Now().Add(time.Hour)}
	w.api.ticket("t1")
	w.api.keys = []coordinator.AuthKey{{ID: "k1", Tags: []string{"tag:db"}, State: "valid"}}
	p := w.person()
	if who != "" {
		p = w.signedIn(who)
	}
	path := strings.NewReplacer("{$}", "", "{file}", "icon.svg", "{token}", "tok", "{ticket}", "t1", "{node}", "n2", "{generation}", "41",
		"{login}", "bob@example.com", "{key}", "k1").Replace(rt.pattern)
	before := len(w.api.calls)
	a := p.get(path)
	if rt.method == http.MethodPost {
		before = len(w.api.calls)
		a = p.post(path)
	}
	switch {
	case a.status == http.StatusSeeOther && strings.HasPrefix(a.location(), "/login?next="):
		return expectUntouched(w, before, "sign-in")
	case a.status == http.StatusForbidden:
		return expectUntouched(w, before, "refused")
	case a.status < 500:
		return "in"
	}
	return fmt.Sprintf("status %d: %s", a.status, a.body)
}

// expectUntouched adds to the verdict when the refused visitor's request reached the coordinator all the same.
func expectUntouched(w *world, before int, verdict string) string {
	if n := len(w.api.calls) - before; n > 0 {
		return fmt.Sprintf("%s, after %v", verdict, w.api.calls[before:])
	}
	return verdict
}

// TestRouterRefusesIncompleteRoutes is R32's other half: a route that does not say who may use it does not even build.
func TestRouterRefusesIncompleteRoutes(t *testing.T) {
	answer := func(*visit) (reply, error) { return reply{}, nil }
	for name, rt := range map[string]route{
		"no access":      {method: "GET", pattern: "/x", handle: answer},
		"unknown access": {method: "GET", pattern: "/x", access: admin + 1, handle: answer},
		"no method":      {pattern: "/x", access: public, handle: answer},
		"other method":   {method: "DELETE", pattern: "/x", access: public, handle: answer},
		"no handler":     {method: "GET", pattern: "/x", access: public},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("built")
				}
			}()
			newMux([]route{rt}, func(route) http.Handler { return http.NotFoundHandler() }, http.NotFoundHandler())
		})
	}
}

// TestNoGetChangesAnything asks for every page that is there and compares the coordinator before and after (R24).
func TestNoGetChangesAnything(t *testing.T) {
	w := newWorld(t)
	w.api.invitations["tok"] = coordinator.Invitation{Login: "carol@example.com", Role: coordinator.RoleMember, Expires: time.Now().Add(time.Hour)}
	w.api.ticket("t1")
	p := w.signedIn(adminLogin)
	w.api.calls = nil
	for _, path := range []string{
		"/setup/tok", "/setup/tok", "/setup/tok?change=1", "/setup/tok/qr", "/login?next=/", "/join/t1", "/join/t1?code=B7KD-2MXR", "/", "/nodes", "/nodes/n1",
		"/nodes/n1/rename?name=x", "/nodes/n1/quarantine", "/nodes/n3/release", "/nodes/n1/remove", "/changes/41", "/users?login=x@example.com&role=admin",
		"/users/bob@example.com/remove", "/keys?tags=db&life=1h", "/policy", "/audit",
	} {
		p.get(path)
	}
	reads := map[string]bool{"Invitation": true, "Ticket": true, "Nodes": true, "Node": true, "Users": true, "PolicyStatus": true, "Enforced": true, "Audit": true, "AuthKeys": true}
	for _, call := range w.api.calls {
		if !reads[call] {
			t.Errorf("a GET led to %s", call)
		}
	}
	if _, ok := w.api.invitations["tok"]; !ok {
		t.Error("a GET spent the setup link")
	}
	for _, path := range []string{"/logout", "/policy/reload", "/join/t1/deny"} {
		p.get(path).want(t, http.StatusMethodNotAllowed)
	}
}
