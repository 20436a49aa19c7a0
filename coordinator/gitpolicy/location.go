package gitpolicy

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// location is a repository's place, taken apart.
type location struct {
	scheme string // "file", "https" or "ssh"
	user   string // ssh: "git" unless named
	host   string // with the port where one is named
	path   string
}

// scpForm is git's short form for ssh, USER@HOST:PATH.
var scpForm = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._-]*)@([A-Za-z0-9][A-Za-z0-9.-]*):([^:].*)$`)

// hostForm keeps out anything that could be read as an option or a path.
var hostForm = regexp.MustCompile(`^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?$`)

var userForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

func parseLocation(s string) (location, error) {
	if m := scpForm.FindStringSubmatch(s); m != nil {
		return location{"ssh", m[1], m[2], m[3]}, nil
	}
	if !strings.Contains(s, "://") {
		if s == "" || strings.HasPrefix(s, "-") {
			return location{}, refuse("%q is no repository: give --policy-repo a path, or a https:// or ssh:// URL", s)
		}
		abs, err := filepath.Abs(s)
		if err != nil {
			return location{}, refuse("cannot find %q: %v", s, err)
		}
		return location{scheme: "file", path: abs}, nil
	}
	u, err := url.Parse(s)
	if err != nil { // its text may hold a password
		return location{}, refuse("the --policy-repo URL cannot be read: write it as https://HOST/PATH or ssh://git@HOST/PATH")
	}
	return locationOf(u)
}

func locationOf(u *url.URL) (location, error) {
	if _, has := u.User.Password(); has || (u.Scheme == "https" && u.User != nil) {
		return location{}, refuse("the --policy-repo URL holds a credential: put it in a file and name that with --policy-token or --policy-ssh-key")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return location{}, refuse("the --policy-repo URL has a query or a fragment; a repository's has neither")
	}
	l := location{scheme: u.Scheme, host: u.Host, path: u.Path, user: u.User.Username()}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return l, refuse("a file:// URL names an absolute path: file:///srv/policy.git")
		}
		return l, nil
	case "ssh":
		if l.user == "" {
			l.user = "git"
		}
		if !userForm.MatchString(l.user) {
			return l, refuse("the user in the --policy-repo URL is malformed")
		}
	case "https":
	case "http", "git":
		return l, refuse("%s:// is not protected on its way: use https:// or ssh:// for --policy-repo", u.Scheme)
	default:
		return l, refuse("--policy-repo cannot be fetched by %q: use a path, https:// or ssh://", u.Scheme)
	}
	if !hostForm.MatchString(l.host) || strings.Trim(l.path, "/") == "" {
		return l, refuse("the --policy-repo URL lacks a host or a path: write it as https://HOST/PATH or ssh://git@HOST/PATH")
	}
	return l, nil
}

// String is for people: no credential can be in it.
func (l location) String() string {
	if l.scheme == "file" {
		return l.path
	}
	return l.scheme + "://" + l.host + "/" + strings.TrimPrefix(l.path, "/")
}
