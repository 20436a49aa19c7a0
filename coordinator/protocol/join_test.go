package protocol

import (
	"strings"
	"testing"

	"picket.internal/wgtun/key"
)

func TestParseJoinRefuses(t *testing.T) {
	print := testCoordinator.Public().Fingerprint().String()
	for in, says := range map[string]string{
		"":                                                       "empty",
		"http://picket.example.com":                              "not encrypted",
		"HTTP://picket.example.com#" + print:                     "not encrypted",
		"picket.example.com":                                     "https://",
		"picket.example.com:8443":                                "https://",
		"ftp://picket.example.com":                               "https://",
		"https://":                                               "host",
		"https://:8443":                                          "host",
		"https://bad host":                                       "URL",
		"https://bad_%zz":                                        "URL",
		"https://-bad.example.com":                               "host",
		"https://a..b":                                           "host",
		"https://exa\u043cple.com":                               "host",
		"https://[fe80::1%25eth0]":                               "host",
		"https://user:pw@picket.example.com":                     "password",
		"https://picket.example.com@evil.com":                    "password",
		"https://picket.example.com/admin":                       "path",
		"https://picket.example.com?x=1":                         "query",
		"https://picket.example.com?":                            "query",
		"https://picket.example.com:":                            "port",
		"https://picket.example.com:0":                           "port",
		"https://picket.example.com:65536":                       "port",
		"https://picket.example.com:0443":                        "port",
		"https://picket.example.com#":                            "fingerprint",
		"https://picket.example.com#" + print[1:]:                "fingerprint",
		"https://picket.example.com#" + print + "A":              "fingerprint",
		"https://picket.example.com#" + print + "\n":             "fingerprint",
		"https://picket.example.com#" + strings.Repeat("A", 43):  "zeros",
		"https://picket.example.com#" + strings.Repeat("A", 600): "too long",
		"https://picket.example.com#" + print + "#" + print:      "fingerprint",
		"https://picket.example.com#" + strings.ReplaceAll(print, print[:1], "+"): "fingerprint",
	} {
		j, err := ParseJoin(in)
		if err == nil {
			t.Errorf("%q was taken as %s", in, j)
			continue
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: the error does not speak of %q: %v", in, says, err)
		}
	}
}

func TestParseJoin(t *testing.T) {
	print := testCoordinator.Public().Fingerprint()
	for in, want := range map[string]Join{
		"https://picket.example.com":                {"https://picket.example.com", key.Fingerprint{}},
		"https://picket.example.com/":               {"https://picket.example.com", key.Fingerprint{}},
		"https://Picket.Example.com:8443":           {"https://picket.example.com:8443", key.Fingerprint{}},
		"HTTPS://192.0.2.1:8443#" + print.String():  {"https://192.0.2.1:8443", print},
		"https://[2001:db8::1]:1#" + print.String(): {"https://[2001:db8::1]:1", print},
		"https://lan_host/#" + print.String():       {"https://lan_host", print},
	} {
		got, err := ParseJoin(in)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
		if back, err := ParseJoin(got.String()); back != got {
			t.Errorf("%q does not come back: %v, %v", got.String(), back, err)
		}
	}
}

func FuzzParseJoin(f *testing.F) {
	f.Add("https://picket.example.com:8443#" + testCoordinator.Public().Fingerprint().String())
	f.Add("https://[::1]:1")
	f.Fuzz(func(t *testing.T, s string) {
		j, err := ParseJoin(s)
		if err != nil {
			return
		}
		if back, err := ParseJoin(j.String()); err != nil || back != j {
			t.Fatalf("%q: %v, %v", s, back, err)
		}
		if !strings.HasPrefix(j.URL, "https://") || strings.ContainsAny(j.URL[8:], "/@?# \n") {
			t.Fatalf("%q gives the URL %q", s, j.URL)
		}
	})
}
