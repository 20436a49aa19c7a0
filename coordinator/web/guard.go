package web

import (
	"mime"
	"net"
	"net/http"
	"strings"
)

// maxBody bounds a posted form, in bytes (R15).
const maxBody = 64 << 10

// guard is everything that is checked before a route is even looked for, and the headers every answer carries.
type guard struct {
	next   http.Handler
	refuse func(w http.ResponseWriter, r *http.Request, status int, heading, message string)
	hosts  map[string]bool // empty: any
	origin *http.CrossOriginProtection
	hsts   bool
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.setHeaders(w.Header())
	if len(g.hosts) > 0 && !g.hosts[hostName(r.Host)] {
		g.refuse(w, r, http.StatusMisdirectedRequest, "This coordinator does not go by that name",
			"Open it under the address that your administrator gave you.")
		return
	}
	if isUnsafe(r.Method) && !g.checkUnsafe(w, r) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	g.next.ServeHTTP(w, r)
}

// setHeaders lets a browser load our style sheet and images and post our forms, and nothing else; and keeps the tokens that stand in
// some addresses out of caches and out of Referer.
func (g *guard) setHeaders(h http.Header) {
	h.Set("Content-Security-Policy",
		"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if g.hsts {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// checkUnsafe refuses a request that may change something unless it says that it comes from our own pages (R24), and is a form of
// bearable size (R15).
func (g *guard) checkUnsafe(w http.ResponseWriter, r *http.Request) bool {
	switch {
	// CrossOriginProtection takes a request with neither header for one of a program's. Pages are for browsers, which send one of them.
	case r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "", g.origin.Check(r) != nil:
		g.refuse(w, r, http.StatusForbidden, "This request did not come from Picket's own pages",
			"Nothing was changed. Open the page yourself and press the button there.")
	case r.ContentLength > maxBody:
		g.refuse(w, r, http.StatusRequestEntityTooLarge, "That is too much at once", "A form here holds at most 64 KiB.")
	case !isForm(r):
		g.refuse(w, r, http.StatusUnsupportedMediaType, "That is not a form", "Use the forms of the pages.")
	default:
		return true
	}
	return false
}

// isForm reports an ordinary form. No body at all counts: some buttons send nothing.
func isForm(r *http.Request) bool {
	if r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && media == "application/x-www-form-urlencoded"
}

func isUnsafe(method string) bool {
	return method != http.MethodGet && method != http.MethodHead
}

// hostName is a Host header's name or address in lower case, without port and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}
