package acl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const ownersPolicy = `{
	"groups": {"group:eng": ["Alice@Example.com", "bob@example.com"], "group:oncall": ["bob@example.com"]},
	"tagOwners": {
		"tag:web": ["group:eng"], "tag:ci": ["tag:web", "dave@example.com"], "tag:open": ["autogroup:member"], "tag:admin": ["autogroup:admin"],
		"tag:none": [], "tag:loop": ["tag:pool"], "tag:pool": ["tag:loop", "tag:pool", "eve@example.com"],
		"tag:domain": ["user:*@Other.example", "autogroup:owner", "autogroup:network-admin"],
	},
}`

func TestOwnsTag(t *testing.T) {
	p := mustParse(t, ownersPolicy)
	owns := map[string]string{
		"alice@example.com": "web ci open", "ALICE@example.com": "web ci open", "bob@example.com": "web ci open", "dave@example.com": "ci open",
		"eve@example.com": "loop pool open", "zoe@example.com": "open", "": "", "\u212aate@example.com": "open", "max@other.example": "open domain", "max@sub.other.example": "open",
	}
	for login, want := range owns {
		for _, tag := range strings.Fields("web ci open admin none loop pool domain unknown") {
			if got, want := p.OwnsTag(login, "tag:"+tag), strings.Contains(" "+want+" ", " "+tag+" "); got != want {
				t.Errorf("%s owns tag:%s: %v, want %v", login, tag, got, want)
			}
		}
	}
	if p.OwnsTag("alice@example.com", "web") || p.HasTag("web") || p.HasTag("tag:unknown") || !p.HasTag("tag:none") {
		t.Error("a tag is known by another name than its own")
	}
}

func TestTagOwnsTag(t *testing.T) {
	p := mustParse(t, ownersPolicy)
	for question, want := range map[string]bool{
		"tag:web tag:ci": true, "tag:ci tag:web": false, "tag:web tag:web": false, "tag:pool tag:pool": true, "tag:loop tag:loop": true,
		"tag:none tag:none": false, "tag:unknown tag:ci": false, "tag:web tag:unknown": false,
	} {
		owner, tag, _ := strings.Cut(question, " ")
		if got := p.TagOwnsTag(owner, tag); got != want {
			t.Errorf("%s: %v, want %v", question, got, want)
		}
	}
}

func TestGroupsFoldsCase(t *testing.T) {
	p := mustParse(t, ownersPolicy)
	for login, want := range map[string]string{
		"alice@example.com": "group:eng", "ALICE@EXAMPLE.COM": "group:eng", "bob@example.com": "group:eng group:oncall", "zoe@example.com": "",
	} {
		if got := strings.Join(p.Groups(login), " "); got != want {
			t.Errorf("%s is in %q, want %q", login, got, want)
		}
	}
	p.Groups("bob@example.com")[0] = "changed"
	if p.Groups("bob@example.com")[0] != "group:eng" {
		t.Error("the caller changed the policy")
	}
}

// Unicode's case folding would make a stranger's login equal to one in the policy.
func TestLoginsAreFoldedInASCIIOnly(t *testing.T) {
	if foldLogin("Kate@X.org") != "kate@x.org" || foldLogin("\u212aate@x.org") == "kate@x.org" {
		t.Error("the Kelvin sign is a k")
	}
}

func TestRulesKeepTheFilesOrderAcrossSections(t *testing.T) {
	p := mustParse(t, `{
	"grants": [{"src": ["*"], "dst": ["*"], "ip": ["22"]}],
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22", "*:23"]}],
}`)
	var got []string
	for _, r := range mustCompile(t, p, &Directory{}).Ruleset().Rules {
		got = append(got, r.Ref.String()+": "+FormatPorts(r.Ports))
	}
	want := []string{"grants[0], line 2: icmp, tcp 22, udp 22", "acls[0], line 3: icmp, tcp 22, udp 22", "acls[0], line 3: icmp, tcp 23, udp 23"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
