package acl

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// thePage is what a stranger reads before writing a policy.
const thePage = "../docs/policy.md"

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// jsonc lists the policies in a page's fenced blocks. Those that begin with a name are the inside of one.
func jsonc(page string) (out []string) {
	for i, part := range strings.Split(page, "\n```") {
		body, isPolicy := strings.CutPrefix(part, "jsonc\n")
		if i%2 == 0 || !isPolicy {
			continue
		}
		if strings.HasPrefix(body, `"`) {
			body = "{" + body + "\n}"
		}
		out = append(out, body)
	}
	return out
}

func TestPoliciesInDocumentsParseAndPassTheirTests(t *testing.T) {
	for path, least := range map[string]int{thePage: 15, "../README.md": 1} {
		policies := jsonc(readPage(t, path))
		if len(policies) < least {
			t.Errorf("%s has %d policies", path, len(policies))
		}
		for _, text := range policies {
			p, err := Parse([]byte(text))
			if err != nil {
				t.Errorf("%s:\n%s\n%v", path, text, err)
				continue
			}
			for _, f := range p.Test(&Directory{}, now) {
				t.Errorf("%s:\n%s\n%s", path, text, f)
			}
			for _, w := range p.Warnings() {
				if strings.Contains(w.Message, "allows nothing yet") {
					continue // the page says so of conditions
				}
				if !strings.Contains(w.Message, "no effect") && !strings.Contains(w.Message, "lets nobody in") {
					t.Errorf("%s:\n%s\n%s", path, text, w)
				}
			}
		}
	}
}

// fieldsOf are the fields that the parser knows where it does not know "?".
func fieldsOf(t *testing.T, text string) []string {
	t.Helper()
	_, err := Parse([]byte(text))
	for _, d := range err.(Errors) {
		if list, ok := strings.CutPrefix(d.Hint, "known are "); ok && strings.Contains(d.Message, "unknown field `?`") {
			return strings.Split(list, ", ")
		}
	}
	t.Fatalf("%s: %v", text, err)
	return nil
}

// mentions reports whether a page has a word of the language: in backquotes, or in a policy.
func mentions(page, word string) bool {
	return strings.Contains(page, "`"+word+"`") || strings.Contains(page, `"`+word+`"`) || strings.Contains(page, "`"+word+" ")
}

func TestThePageExplainsTheWholeLanguage(t *testing.T) {
	page := readPage(t, thePage)
	var words []string
	for _, where := range []string{
		`{"?": 1}`, `{"acls": [{"?": 1}]}`, `{"grants": [{"?": 1}]}`, `{"denies": [{"?": 1}]}`, `{"tests": [{"?": 1}]}`, `{"ssh": [{"?": 1}]}`, `{"sshTests": [{"?": 1}]}`,
		`{"nodeAttrs": [{"?": 1}]}`, `{"autoApprovers": {"?": 1}}`, `{"grants": [{"approval": {"?": 1}}]}`, `{"grants": [{"hours": {"?": 1}}]}`,
	} {
		words = append(words, fieldsOf(t, where)...)
	}
	for _, a := range autogroups {
		words = append(words, a.name)
	}
	for _, p := range protoNames {
		words = append(words, p.name)
	}
	for _, k := range knownAttributes {
		words = append(words, k.name)
	}
	words = slices.Concat(words, risks, loggings, []string{"add", "remove", "accept", "check", "always"})
	for _, w := range words {
		if !mentions(page, w) {
			t.Errorf("%s does not mention %s", thePage, w)
		}
	}
	for _, text := range operatorTexts {
		if !strings.Contains(page, " "+text.text) {
			t.Errorf("%s does not mention the operator %s", thePage, text.text)
		}
	}
	for _, n := range namespaces {
		if !strings.Contains(page, "`"+n+":") {
			t.Errorf("%s does not mention attributes of %s", thePage, n)
		}
	}
}

// The page's table of what may stand where is what the parser takes.
func TestThePagesTableOfPlacesIsTrue(t *testing.T) {
	page := readPage(t, thePage)
	_, table, _ := strings.Cut(page, "| | `src` of rules |")
	lines := strings.Split(table, "\n")[2:]
	const defined = `"groups": {"group:g": ["a@x.org"]}, "tagOwners": {"tag:t": []%s}, "hosts": {"h": "10.0.0.1"}, "ipsets": {"ipset:s": ["10.0.0.0/8"]},`
	policies := []string{ // by column, %q is the selector
		`"grants": [{"src": [%q], "dst": ["tag:t"], "ip": ["22"]}]`,
		`"grants": [{"src": ["a@x.org"], "dst": [%q], "ip": ["22"]}]`,
		`"tests": [{"src": %q, "deny": ["tag:t:22"]}]`,
		"",
		`"autoApprovers": {"exitNode": [%q]}`,
		`"nodeAttrs": [{"target": [%q]}]`,
		`"ssh": [{"action": "accept", "src": [%q], "dst": ["tag:t"], "users": ["root"]}]`,
		`"ssh": [{"action": "accept", "src": ["a@x.org"], "dst": [%q], "users": ["root"]}]`,
	}
	for name, selectors := range map[string][]string{
		"`*`": {"*"}, "user": {"a@x.org"}, "`user:*@…`": {"user:*@x.org"}, "`group:`": {"group:g"}, "`tag:`": {"tag:t"}, "`autogroup:member`": {"autogroup:member"},
		"`autogroup:tagged`": {"autogroup:tagged"}, "roles": {"autogroup:admin", "autogroup:auditor"}, "`autogroup:self`": {"autogroup:self"},
		"`autogroup:internet`": {"autogroup:internet"}, "`autogroup:danger-all`": {"autogroup:danger-all"}, "`autogroup:shared`": {"autogroup:shared"},
		"address, host": {"10.0.0.1", "fd00::1", "h", "host:h"}, "network, `ipset:`": {"10.0.0.0/8", "ipset:s"}, "`svc:`": {"svc:x"},
	} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "| "+name+" |") })
		if i < 0 {
			t.Errorf("no row for %s", name)
			continue
		}
		cells := strings.Split(lines[i], "|")[2:]
		for column, policy := range policies {
			for _, s := range selectors {
				text := "{" + strings.Replace(defined, "%s", "", 1) + strings.Replace(policy, "%q", `"`+s+`"`, 1) + "}"
				if policy == "" {
					text = "{" + strings.Replace(defined, "%s", `, "tag:u": ["`+s+`"]`, 1) + "}"
				}
				_, err := Parse([]byte(text))
				if says := strings.TrimSpace(cells[column]) != ""; says != (err == nil) {
					t.Errorf("%s in column %d of the table: %v, but: %v", s, column, says, err)
				}
			}
		}
	}
}
