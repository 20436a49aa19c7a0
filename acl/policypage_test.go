package acl

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// policyPage is what people write policies by.
const policyPage = "../docs/policy.md"

// TestPolicyPage holds the page to the parser: its examples are policies whose own tests hold, its mistakes are refused in the words that
// stand below them, and nothing that the parser knows is missing.
func TestPolicyPage(t *testing.T) {
	b, err := os.ReadFile(policyPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	t.Run("mistakes", func(t *testing.T) { pageRefuses(t, page) })
	t.Run("examples", func(t *testing.T) { pageParses(t, page) })
	t.Run("names", func(t *testing.T) { pageNames(t, page) })
	t.Run("routes", func(t *testing.T) { pageRoutes(t, page) })
}

// fence is one fenced block.
type fence struct {
	line       int
	info, text string
}

var fenced = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

func fences(page string) (out []fence) {
	for _, m := range fenced.FindAllStringSubmatchIndex(page, -1) {
		out = append(out, fence{1 + strings.Count(page[:m[0]], "\n"), page[m[2]:m[3]], page[m[4]:m[5]]})
	}
	return out
}

// policy is the block as a policy. One that begins with a name is what stands between the braces.
func (f fence) policy() string {
	if strings.HasPrefix(strings.TrimSpace(f.text), `"`) {
		return "{" + f.text + "}"
	}
	return f.text
}

func pageRefuses(t *testing.T, page string) {
	all := fences(page)
	count := 0
	for i, f := range all {
		if f.info != "jsonc bad" {
			continue
		}
		count++
		if i+1 == len(all) || all[i+1].info != "text" {
			t.Errorf("line %d: no ```text block says what is wrong", f.line)
			continue
		}
		if p, err := Parse([]byte(f.policy())); err == nil || p != nil {
			t.Errorf("line %d: accepted", f.line)
		} else if want := strings.TrimSpace(all[i+1].text); err.Error() != want {
			t.Errorf("line %d: the page says\n%s\nand Parse\n%s", f.line, want, err)
		}
	}
	if count < 8 {
		t.Errorf("only %d mistakes", count)
	}
}

// pageParses reads the examples, and runs their tests in a network of nobody. Warnings are for blocks that are marked with them.
func pageParses(t *testing.T, page string) {
	count := 0
	for _, f := range fences(page) {
		if f.info != "jsonc" && f.info != "jsonc warns" {
			continue
		}
		count++
		p, err := Parse([]byte(f.policy()))
		if err != nil {
			t.Errorf("line %d: %v", f.line, err)
			continue
		}
		for _, bad := range p.Test(&Directory{}, now) {
			t.Errorf("line %d: %s", f.line, bad)
		}
		if w := p.Warnings(); (len(w) > 0) != (f.info == "jsonc warns") {
			t.Errorf("line %d: warnings %v in a block marked %q", f.line, w, f.info)
		}
	}
	if count < 15 {
		t.Errorf("only %d examples", count)
	}
}

// pageNames looks for every word of the language on the page, in backquotes.
func pageNames(t *testing.T, page string) {
	words := []string{"low", "medium", "high", "days", "from", "to", "tz", "by", "for"}
	for _, place := range []string{
		"%s", `"acls":[%s]`, `"grants":[%s]`, `"denies":[%s]`, `"tests":[%s]`, `"ssh":[%s]`, `"sshTests":[%s]`, `"nodeAttrs":[%s]`, `"autoApprovers":%s`,
		`"grants":[{"hours":%s}]`, `"grants":[{"approval":%s}]`,
	} {
		words = append(words, fieldsAt(t, place)...)
	}
	for _, a := range autogroups {
		words = append(words, a.name)
	}
	for _, o := range operatorTexts {
		words = append(words, o.text)
	}
	for _, a := range knownAttributes {
		words = append(words, a.name)
	}
	for _, p := range protoNames {
		words = append(words, p.name)
	}
	words = slices.Concat(words, namespaces, risks, loggings)
	for _, w := range words {
		if !quotedOn(page, w) {
			t.Errorf("%q is not on the page", w)
		}
	}
	for _, prefix := range []string{domainSelector, "group:", "tag:", "host:", "ipset:", "svc:", "posture:"} {
		if !strings.Contains(page, "| `"+prefix) && !strings.Contains(page, " or `"+prefix) {
			t.Errorf("the selector %s… is not in the table", prefix)
		}
	}
}

// quotedOn reports whether w stands on the page in backquotes, alone or as a name in a piece of JSON, or heads a section.
func quotedOn(page, w string) bool {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "### ") && slices.Contains(strings.Split(strings.TrimSpace(line[4:]), ", "), w) {
			return true
		}
		if strings.Contains(line, "`"+w+"`") || strings.Contains(line, "`{") && strings.Contains(line, `"`+w+`": `) {
			return true
		}
	}
	return false
}

// fieldsAt lists the fields that the parser knows at a place, which it says itself of one that it does not know.
func fieldsAt(t *testing.T, place string) []string {
	t.Helper()
	const unknown = `{"#############################": 0}`
	text := unknown
	if place != "%s" {
		text = "{" + fmt.Sprintf(place, unknown) + "}"
	}
	_, err := Parse([]byte(text))
	all, _ := err.(Errors)
	for _, d := range all {
		if list, ok := strings.CutPrefix(d.Hint, "known are "); ok && strings.HasPrefix(d.Message, "unknown field") {
			return strings.Split(list, ", ")
		}
	}
	t.Fatalf("%s: %v does not say what is known", text, err)
	return nil
}

// pageRoutes asks the recipes about flows through routers, which policies' own tests do not see.
func pageRoutes(t *testing.T, page string) {
	d := mustDirectory(t, `{"users": [{"name": "alice@example.com"}], "nodes": [
		{"name": "laptop", "user": "alice@example.com", "addresses": ["100.64.0.1"]},
		{"name": "router", "tags": ["tag:router"], "addresses": ["100.64.0.2"], "routes": ["10.20.0.0/16"]},
		{"name": "exit", "tags": ["tag:exit"], "addresses": ["100.64.0.3"], "routes": ["0.0.0.0/0"]},
	]}`)
	for _, c := range []struct {
		recipe, exit, flow string
		allowed            bool
	}{
		{"A subnet behind a router", "tag:exit-de", "laptop router tcp 22", false},
		{"A subnet behind a router", "tag:exit-de", "10.20.0.8 laptop tcp 9100", false},
		{"A subnet behind a router", "tag:exit-de", "laptop 10.20.0.9 tcp 22", true},
		{"A subnet behind a router", "tag:exit-de", "10.20.0.7 laptop tcp 9100", true},
		{"The internet through exit nodes in one country", "tag:exit-us", "laptop 198.51.100.7 tcp 443", false},
		{"The internet through exit nodes in one country", "tag:exit-de", "laptop exit tcp 443", false},
		{"The internet through exit nodes in one country", "tag:exit-de", "laptop 192.168.0.7 tcp 443", false},
		{"The internet through exit nodes in one country", "tag:exit-de", "laptop 198.51.100.7 tcp 443", true},
	} {
		_, below, found := strings.Cut(page, "\n### "+c.recipe+"\n")
		if !found {
			t.Fatalf("no recipe %q", c.recipe)
		}
		d.Nodes[2].Tags = []string{c.exit}
		w := &verdictWorld{dir: d, compiled: mustCompile(t, mustParse(t, fences(below)[0].policy()), d)}
		if got := w.compiled.Ruleset().Allows(w.flow(t, c.flow), now); got.Allow != c.allowed {
			t.Errorf("%s, exit with %s: %s allowed %t, want %t %s", c.recipe, c.exit, c.flow, got.Allow, c.allowed, got.Reason)
		}
	}
}
