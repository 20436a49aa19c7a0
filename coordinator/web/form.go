package web

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"picket.internal/coordinator"
)

// faults are what is wrong with a form, by field; "" is the form as a whole. Templates show each beside its field.
type faults map[string]string

// whole makes the faults of a refusal that concerns no one field.
func whole(e *coordinator.Error) faults { return faults{"": e.Message} }

// localPath is next when it leads to a page of ours, else "/". Browsers read "//host", "/\host" and "\\host" as another site, strip
// tabs and newlines before they read, and follow schemes; none of that gets through.
func localPath(next string) string {
	const home = "/"
	if len(next) > 1024 || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") {
		return home
	}
	for _, r := range next {
		if r <= ' ' || r == '\\' || r == 0x7f || r == utf8.RuneError {
			return home
		}
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return home
	}
	return next
}

// looksLikeEmail is a first look, so that a slip is told beside the field; the coordinator judges.
func looksLikeEmail(s string) bool {
	name, domain, ok := strings.Cut(s, "@")
	return ok && name != "" && domain != "" && len(s) <= 254 && !strings.ContainsAny(s, " \t\r\n,;<>") && !strings.Contains(domain, "@")
}

// Bounds on a password: the upper one keeps hashing cheap.
const (
	minPassword = 12   // characters
	maxPassword = 1024 // bytes
)

// passwordFault says what is wrong with a password for login; empty when nothing is.
func passwordFault(password, login string) string {
	name, _, _ := strings.Cut(strings.ToLower(login), "@")
	lower := strings.ToLower(password)
	switch {
	case password == "":
		return "Choose a password."
	case utf8.RuneCountInString(password) < minPassword:
		return "That is too short: use at least 12 characters. A few random words are easy to keep."
	case len(password) > maxPassword:
		return "That is too long: use at most 1024 bytes."
	case strings.Contains(lower, strings.ToLower(login)), len(name) >= 4 && strings.Contains(lower, name):
		return "Leave your e-mail address and name out of the password."
	case distinct(password) < 5:
		return "Use at least five different characters."
	}
	return ""
}

func distinct(s string) int {
	seen := map[rune]bool{}
	for _, r := range s {
		seen[r] = true
	}
	return len(seen)
}

// joinCode brings what a person typed into the form XXXX-XXXX: case, spaces and dashes of any kind do not matter. False when it cannot
// be such a code, which then costs no try.
func joinCode(typed string) (string, bool) {
	var b []byte
	for _, r := range strings.ToUpper(typed) {
		switch {
		case r >= '0' && r <= '9', r >= 'A' && r <= 'Z':
			b = append(b, byte(r))
		case strings.ContainsRune(" \t\u00a0-_.‐‑‒–—−", r):
		default:
			return "", false
		}
	}
	if len(b) != 8 {
		return "", false
	}
	return string(b[:4]) + "-" + string(b[4:]), true
}
