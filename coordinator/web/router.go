package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// access is who may use a route. Its zero value is no answer: a route without one is refused when the router is built (R32).
type access uint8

const (
	open     access = iota + 1 // files of ours: no session is looked at
	public                     // anybody
	signedIn                   // every account
	admin                      // administrators
)

// handler answers one admitted request. An error becomes a page by failure.
type handler func(*visit) (reply, error)

// route is one method on one path.
type route struct {
	method  string // GET (which serves HEAD too) or POST
	pattern string // as http.ServeMux reads paths
	access  access
	handle  handler
}

// check panics on a route that leaves out what decides about its safety: that is a mistake in this package, found at the first start.
func (rt route) check() {
	switch {
	case rt.method != http.MethodGet && rt.method != http.MethodPost:
		panic(fmt.Sprintf("route %q: method %q is neither GET nor POST", rt.pattern, rt.method))
	case rt.access < open || rt.access > admin:
		panic(fmt.Sprintf("route %s %q declares no access", rt.method, rt.pattern))
	case rt.handle == nil:
		panic(fmt.Sprintf("route %s %q has no handler", rt.method, rt.pattern))
	}
}

// newMux checks every route and joins them; fallback answers what matches none.
func newMux(routes []route, serve func(route) http.Handler, fallback http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	for _, rt := range routes {
		rt.check()
		mux.Handle(rt.method+" "+rt.pattern, serve(rt))
	}
	mux.Handle(anyPath, fallback)
	return mux
}

// anyPath is the pattern of the fallback.
const anyPath = "/"

// serves reports whether a route takes method on path.
func (s *site) serves(method, path string) bool {
	r, err := http.NewRequest(method, path, nil)
	if err != nil {
		return false
	}
	_, pattern := s.mux.Handler(r)
	return strings.HasPrefix(pattern, method+" ")
}

// noRoute answers what matches no route: 405 when another method would have, else 404.
func (s *site) noRoute(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if s.serves(method, r.URL.EscapedPath()) {
			w.Header().Set("Allow", method)
			s.refuse(w, r, http.StatusMethodNotAllowed, "This address does not take that kind of request",
				"Go back, and use the links and buttons of the pages.")
			return
		}
	}
	s.refuse(w, r, http.StatusNotFound, "There is no such page", "Check the address, or start from the overview.")
}

// admit decides whether the visitor may use a route; if not, the reply says so.
func (s *site) admit(rt route, v *visit) (reply, bool) {
	switch {
	case rt.access == open, rt.access == public:
		return reply{}, true
	case !v.known():
		return redirect("/login?next=" + url.QueryEscape(s.returnPath(v.Request))), false
	case rt.access == signedIn:
		return reply{}, true
	case rt.access == admin && v.isAdmin():
		return reply{}, true
	}
	return problem(http.StatusForbidden, "This page is for administrators",
		"Your account is a member's. Ask an administrator of the network if you need something here."), false
}

// returnPath is the page to come back to after signing in: the one asked for, or the nearest one above it when that only takes a POST.
func (s *site) returnPath(r *http.Request) string {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return r.URL.RequestURI()
	}
	path := r.URL.EscapedPath()
	for path != "" && !s.serves(http.MethodGet, path) {
		path = path[:strings.LastIndexByte(path, '/')]
	}
	if path == "" {
		return "/"
	}
	return path
}
