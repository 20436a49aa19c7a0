package acl

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const sshPolicy = `{
	"groups": {"group:eng": ["alice@example.com"]},
	"tagOwners": {"tag:web": [], "tag:ci": [], "tag:recorder": []},
	"hosts": {"tape": "192.0.2.9"},
	"ssh": [%s],
}`

func TestSSHRulesAreReadIntoTheirForm(t *testing.T) {
	sel := func(k kind, text string) selector { return selector{kind: k, text: text} }
	for text, want := range map[string]sshRule{
		`{"action": "accept", "src": ["Alice@Example.com"], "dst": ["alice@example.com", "tag:web", "tag:web"], "users": ["root"]}`: {
			period: 12 * time.Hour, src: []selector{sel(kindUser, "alice@example.com")},
			dst:   []selector{sel(kindUser, "alice@example.com"), sel(kindTag, "tag:web")},
			users: []sshUser{{name: "root"}},
		},
		`{"action": "check", "src": ["group:eng", "autogroup:member"], "dst": ["autogroup:self", "autogroup:tagged"], "checkPeriod": "1h30m",
			"users": ["autogroup:nonroot", "localpart:*@Example.com"], "acceptEnv": ["GIT_*", "*"]}`: {
			check: true, period: 90 * time.Minute, src: []selector{sel(kindGroup, "group:eng"), sel(kindMember, "autogroup:member")},
			dst:   []selector{sel(kindSelf, "autogroup:self"), sel(kindTagged, "autogroup:tagged")},
			users: []sshUser{{nonroot: true}, {domain: "example.com"}}, env: []string{"GIT_*", "*"},
		},
		`{"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "168h"}`: {
			check: true, period: 168 * time.Hour, src: []selector{sel(kindMember, "autogroup:member")}, dst: []selector{sel(kindTag, "tag:web")},
			users: []sshUser{{name: "root"}},
		},
		`{"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "always"}`: {
			check: true, src: []selector{sel(kindMember, "autogroup:member")}, dst: []selector{sel(kindTag, "tag:web")},
			users: []sshUser{{name: "root"}},
		},
		`{"action": "accept", "src": ["tag:ci", "autogroup:tagged"], "dst": ["tag:web"], "users": ["root"], "acceptEnv": [],
			"recorder": ["tag:recorder", "tape"], "enforceRecorder": true}`: {
			period: 12 * time.Hour, src: []selector{sel(kindTag, "tag:ci"), sel(kindTagged, "autogroup:tagged")}, dst: []selector{sel(kindTag, "tag:web")},
			users: []sshUser{{name: "root"}}, mustRecord: true,
			recorders: []selector{sel(kindTag, "tag:recorder"), {kind: kindPrefix, text: "tape", prefix: netip.MustParsePrefix("192.0.2.9/32")}},
		},
		`{"action": "accept", "src": ["user:*@Example.com", "autogroup:admin", "autogroup:shared", "autogroup:members"], "dst": ["autogroup:member"],
			"users": ["root"]}`: {
			period: 12 * time.Hour, dst: []selector{sel(kindMember, "autogroup:member")}, users: []sshUser{{name: "root"}},
			src: []selector{
				sel(kindDomain, "user:*@example.com"), sel(kindRole, "autogroup:admin"), sel(kindShared, "autogroup:shared"), sel(kindMember, "autogroup:member"),
			},
		},
	} {
		p := mustParse(t, sshText(text))
		want.ref = Ref{"ssh", 0, 5, 10}
		if diff := cmp.Diff([]sshRule{want}, p.ssh, cmp.AllowUnexported(sshRule{}, sshUser{}, selector{}), cmp.Comparer(samePrefix)); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// What Tailscale's service takes although it names nobody, or is against its documentation, is taken and doubted (recorded 2026-05-12).
func TestSSHWarnings(t *testing.T) {
	p := mustParse(t, sshText(`
		{"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"], "checkPeriod": "0s",
			"users": ["autogroup:member", "localpart:", "localpart:foo@example.com", "localpart:*@", "localpart:*@a@b"]},
		{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"], "enforceRecorder": true}`))
	var got []string
	for _, w := range p.Warnings() {
		got = append(got, w.String())
	}
	known := "is read as the name of a user of the host: known are `autogroup:nonroot` and `localpart:*@example.com`"
	want := []string{
		"line 5, column 9: warning: `ssh` lets nobody in: Picket runs no SSH server yet, and only checks and tests these rules",
		"line 6, column 87: warning: ssh[0].checkPeriod is shorter than a minute: every login is checked: write `always`, or `1m` and more",
		"line 7, column 14: warning: `autogroup:member` " + known,
		"line 7, column 34: warning: `localpart:` " + known,
		"line 7, column 48: warning: `localpart:foo@example.com` " + known,
		"line 7, column 77: warning: `localpart:*@` " + known,
		"line 7, column 93: warning: `localpart:*@a@b` " + known,
		"line 8, column 3: warning: ssh[1] enforces recording, but has no recorder: name one in `recorder`",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p.ssh[0].period != 0 {
		t.Errorf("a period of 0s is %v", p.ssh[0].period)
	}
}
