package acl

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestGroupsInRules(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		want   map[string][]string
	}{
		"no rules": {`{"groups": {"group:eng": ["a@x.io"]}}`, nil},
		"in a tag's owners and a test alone, which are no rules": {`{"groups": {"group:eng": ["a@x.io"]}, "tagOwners": {"tag:db": ["group:eng"]},
			"tests": [{"src": "a@x.io", "deny": ["tag:db:22"]}]}`, nil},
		"nobody in it": {`{"groups": {"group:eng": []}, "grants": [{"src": ["group:eng"], "dst": ["*"], "ip": ["*"]}]}`,
			map[string][]string{"group:eng": {}}},
		"of a deny, which would refuse nobody without it": {`{"groups": {"group:out": ["a@x.io"]},
			"denies": [{"src": ["group:out"], "dst": ["*"], "ip": ["*"], "reason": "left"}]}`, map[string][]string{"group:out": {"a@x.io"}}},
		"as source and as destination, of grants and acls": {`{"groups": {"group:a": ["a@x.io"], "group:b": ["b@x.io"], "group:c": ["c@x.io"], "group:d": ["d@x.io"]},
			"grants": [{"src": ["group:a", "*"], "dst": ["group:b"], "ip": ["*"]}],
			"acls": [{"action": "accept", "src": ["group:c"], "dst": ["*:22", "group:d:80", "group:a:81"]}]}`,
			map[string][]string{"group:a": {"a@x.io"}, "group:b": {"b@x.io"}, "group:c": {"c@x.io"}, "group:d": {"d@x.io"}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustParse(t, c.policy)
			if d := cmp.Diff(c.want, p.GroupsInRules(), cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
			for _, logins := range p.GroupsInRules() {
				for i := range logins {
					logins[i] = "changed"
				}
			}
			if d := cmp.Diff(c.want, p.GroupsInRules(), cmpopts.EquateEmpty()); d != "" {
				t.Error("the caller changed the policy: " + d)
			}
		})
	}
	if got := Deny().GroupsInRules(); len(got) != 0 {
		t.Errorf("the policy that allows nothing uses %v", got)
	}
}
