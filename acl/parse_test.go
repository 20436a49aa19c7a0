package acl

import (
	"strings"
	"testing"
)

func TestPackageDocumentationsExampleParses(t *testing.T) {
	p := mustParse(t, `{
	  "groups":    {"group:eng": ["alice@example.com", "group:oncall"], "group:oncall": ["bob@example.com"]},
	  "hosts":     {"db": "100.64.0.7", "office": "10.20.0.0/16"},
	  "tagOwners": {"tag:web": ["group:eng"], "tag:ci": ["tag:web", "autogroup:member"], "tag:prod": []},
	  "acls":      [{"action": "accept", "src": ["group:eng"], "dst": ["tag:web:80,443", "db:5432"], "proto": "tcp"}],
	  "grants":    [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}],
	  "tests":     [{"src": "bob@example.com", "accept": ["tag:web:443"], "deny": ["tag:prod:22"]}],
	}`)
	for _, f := range p.Test(&Directory{}, now) {
		t.Error(f)
	}
	if got := strings.Join(p.Groups("BOB@example.com"), " "); got != "group:eng group:oncall" {
		t.Errorf("bob's groups are %q", got)
	}
}
