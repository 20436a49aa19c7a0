package protocol

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"picket.internal/wgtun/key"
)

// Join says where a coordinator is and, when it carries a fingerprint, who it must be.
type Join struct {
	URL         string          // https://host or https://host:port, without a trailing slash
	Fingerprint key.Fingerprint // of the coordinator's key; zero when the join string has none
}

// maxJoin bounds a join string: a host name of 253 bytes, a port and a fingerprint fit well.
const maxJoin = 512

// ParseJoin reads https://HOST[:PORT][#FINGERPRINT]. The error is one sentence that says what to type instead.
func ParseJoin(s string) (Join, error) {
	if s == "" || len(s) > maxJoin {
		return Join{}, joinError("it is empty or too long")
	}
	at, print, hasPrint := strings.Cut(s, "#")
	u, err := url.Parse(at)
	if err != nil {
		return Join{}, joinError("it is no URL")
	}
	if err := checkURL(u); err != nil {
		return Join{}, err
	}
	j := Join{URL: "https://" + strings.ToLower(u.Host)}
	if !hasPrint {
		return j, nil
	}
	if j.Fingerprint, err = key.ParseFingerprint(print); err != nil {
		return Join{}, joinError("what follows the # is no fingerprint (43 letters, digits, - and _): copy the whole line that the coordinator printed, and put it in quotes")
	}
	if j.Fingerprint.IsZero() {
		return Join{}, joinError("its fingerprint is all zeros, which no key has")
	}
	return j, nil
}

// checkURL refuses everything that is not scheme, host and port: a path, a query or a password in a join string is a mistake, or an
// attempt to have one place read and another dialled.
func checkURL(u *url.URL) error {
	switch {
	case u.Scheme == "http":
		return joinError("http is not encrypted: use https")
	case u.Scheme != "https":
		return joinError("it does not begin with https://")
	case u.User != nil:
		return joinError("it must not carry a user name or password")
	case u.Path != "" && u.Path != "/":
		return joinError("it must not carry a path")
	case u.RawQuery != "" || u.ForceQuery:
		return joinError("it must not carry a query")
	}
	if !isHost(u.Hostname()) {
		return joinError("its host is neither a name nor an address")
	}
	if strings.HasSuffix(u.Host, ":") {
		return joinError("its port is missing after the colon")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != p {
			return joinError("its port is not a number from 1 to 65535")
		}
	}
	return nil
}

// isHost reports a DNS name of labels (letters, digits, - and _), or an address without a zone.
func isHost(h string) bool {
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Zone() == ""
	}
	if len(h) == 0 || len(h) > 253 {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(h, "."), ".") {
		if len(label) == 0 || len(label) > 63 || !only(label, urlSafe) || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

func joinError(why string) error {
	return errors.New("the join string is not usable: " + why + "; it has the form https://host:port#FINGERPRINT")
}

// String is the join string.
func (j Join) String() string {
	if j.Fingerprint.IsZero() {
		return j.URL
	}
	return j.URL + "#" + j.Fingerprint.String()
}

// TokenPrefix begins every token.
const TokenPrefix = "picket-token-"

// CheckToken refuses what cannot be a token, before it is sent: the prefix and 16 to 128 letters, digits, - and _. The error does not
// repeat the token.
func CheckToken(s string) error {
	rest, ok := strings.CutPrefix(s, TokenPrefix)
	if !ok || len(rest) < 16 || len(rest) > 128 || !only(rest, urlSafe) {
		return fmt.Errorf("this is no token: it must begin with %s and be copied whole, as `picket-coordinator tokens create` printed it", TokenPrefix)
	}
	return nil
}

// AuthKeyPrefix begins every auth key.
const AuthKeyPrefix = "picket-key-"

// CheckAuthKey refuses what cannot be an auth key, before it is sent: the prefix and 16 to 128 letters, digits, - and _. The error does
// not repeat the key.
func CheckAuthKey(s string) error {
	rest, ok := strings.CutPrefix(s, AuthKeyPrefix)
	if !ok || len(rest) < 16 || len(rest) > 128 || !only(rest, urlSafe) {
		return fmt.Errorf("this is no auth key: it must begin with %s and be copied whole, as `picket-coordinator keys create` printed it", AuthKeyPrefix)
	}
	return nil
}
