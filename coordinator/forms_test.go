package coordinator

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

func TestHostLabel(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "node",
		"   ":                      "node",
		"...":                      "node",
		"---":                      "node",
		"\x00\x07\x1b":             "node",
		"日本語":                      "node",
		"localhost":                "node",
		"wpad":                     "node",
		"ISATAP.example.com":       "node",
		"localhost.localdomain":    "node",
		"n0123456789abcdef":        "node", // could be taken for an id
		"laptop":                   "laptop",
		"LAPTOP":                   "laptop",
		"web.example.com":          "web",
		"Bob's MacBook Pro":        "bob-s-macbook-pro",
		"a\nb":                     "a-b",
		"a  --  b":                 "a-b",
		"-a-":                      "a",
		"\x1b[31mred\x1b[0m":       "red",
		"\x1b]0;title\x07host":     "host",
		"ev\x1b[2Jil":              "evil",
		"../../etc/passwd":         "node",
		"a/../b":                   "a",
		"ünï":                      "n",
		strings.Repeat("x", 300):   strings.Repeat("x", 63),
		strings.Repeat("x-", 100):  strings.TrimSuffix(strings.Repeat("x-", 32), "-"),
		"\xff\xfe\xfdhost\xc3\x28": "host",
		"db\u202egnp.exe":          "db-gnp",
		"100.64.0.1":               "100",
	} {
		if got := hostLabel(in); got != want {
			t.Errorf("hostLabel(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzHostLabel(f *testing.F) {
	for _, s := range []string{"", "laptop", "\x1b[31m", strings.Repeat("é-", 200), "\x1b]8;;http://x\x1b\\y", "a.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if label := hostLabel(s); checkLabel(label) != nil {
			t.Errorf("hostLabel(%q) = %q, which no node may be called", s, label)
		}
	})
}

// The forms of what people copy: tools and documents rely on them.
func TestForms(t *testing.T) {
	for name, tc := range map[string]struct{ got, form string }{
		"auth key":      {authKeyPrefix + token(8) + "-" + token(32), `^picket-key-[a-z2-7]{13}-[a-z2-7]{52}$`},
		"typed code":    {newCode(), `^[BCDFGHJKLMNPQRSTVWXZ2-9]{4}-[BCDFGHJKLMNPQRSTVWXZ2-9]{4}$`},
		"recovery code": {newRecoveryCode(), `^[a-z2-7]{4}(-[a-z2-7]{4}){3}$`},
		"node id":       {randomID("n"), `^n[0-9a-f]{16}$`},
		"password hash": {phc(PasswordCost{65536, 3, 1}, make([]byte, 16), make([]byte, 32)),
			`^\$argon2id\$v=19\$m=65536,t=3,p=1\$A{22}\$A{43}$`},
	} {
		if !regexp.MustCompile(tc.form).MatchString(tc.got) {
			t.Errorf("%s %q is not of the form %s", name, tc.got, tc.form)
		}
	}
	p := Checkpoint{Network: "net-x", Size: 7, Generation: 42}
	if got, want := string(p.Text()), "picket audit checkpoint\nnet-x\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n42\n"; got != want {
		t.Errorf("checkpoint %q, want %q", got, want)
	}
}

// RFC 6238, appendix B (SHA-1), cut to six digits.
func TestTOTPVectors(t *testing.T) {
	const secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" // "12345678901234567890"
	for at, code := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037"} {
		step, ok := matchTOTP(secret, code, time.Unix(at, 0))
		if !ok || step != at/30 {
			t.Errorf("at %d: step %d, %v", at, step, ok)
		}
		if _, ok := matchTOTP(secret, code, time.Unix(at+61, 0)); ok {
			t.Errorf("the code of %d is taken 61 s later", at)
		}
	}
}

func TestSealedTOTPIsBound(t *testing.T) {
	s := deriveSecrets(key.NewCoordinator())
	sealed := s.sealTOTP("u1", "SECRET")
	if got, err := s.openTOTP("u1", sealed); err != nil || got != "SECRET" {
		t.Errorf("%q, %v", got, err)
	}
	for name, open := range map[string]func() (string, error){
		"another user's row":        func() (string, error) { return s.openTOTP("u2", sealed) },
		"another coordinator's key": func() (string, error) { return deriveSecrets(key.NewCoordinator()).openTOTP("u1", sealed) },
		"an edited row":             func() (string, error) { b := append([]byte{}, sealed...); b[30] ^= 1; return s.openTOTP("u1", b) },
		"an empty row":              func() (string, error) { return s.openTOTP("u1", nil) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s opens: %q", name, got)
		}
	}
}

// R1: what is not in the table, or has no value in it, may nothing.
func TestZeroRightIsNone(t *testing.T) {
	if got, err := reachOf(&world{roster: newRoster()}, Actor{Kind: ActorOperator}, "a right nobody defined"); err == nil {
		t.Errorf("the operator reaches %v with an unknown right", got)
	}
	users := &world{roster: newRoster()}
	users.users.set("u", UserRow{ID: "u", Role: "emperor", Active: true})
	users.users.set("i", UserRow{ID: "i", Role: RoleAdmin})
	for _, id := range []acl.UserID{"u", "i", ""} {
		if got, err := reachOf(users, Actor{Kind: ActorUser, User: id}, rightListNodes); err == nil {
			t.Errorf("user %q reaches %v", id, got)
		}
	}
	if err := may(users, Actor{Kind: ActorOperator}, rightJudgeTicket, ""); err == nil {
		t.Error("the operator owns what has no owner")
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{"a\nb\x1b[1m": "ab[1m", "  x ": "x", strings.Repeat("é", 10): "éé", "\xff": ""} {
		if got := oneLine(in, 5); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestAssignable(t *testing.T) {
	for prefix, bad := range map[string][]string{
		"100.64.0.0/10": {"100.64.0.0", "100.64.0.15", "100.64.1.0", "100.64.1.255", "100.127.255.255"},
		"10.9.8.0/29":   {"10.9.8.0", "10.9.8.7"},
	} {
		for _, a := range bad {
			if assignable(mustPrefix(prefix), mustAddr(a)) {
				t.Errorf("%s of %s is given out", a, prefix)
			}
		}
	}
	if !assignable(mustPrefix("100.64.0.0/10"), mustAddr("100.64.0.16")) {
		t.Error("100.64.0.16 is not given out")
	}
}

var (
	mustPrefix = netip.MustParsePrefix
	mustAddr   = netip.MustParseAddr
)
