package protocol

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

// TestPolicyBodiesGolden pins the bytes of what programs ask about policies, both ways.
func TestPolicyBodiesGolden(t *testing.T) {
	impact := Impact{
		Live: 20, Cut: 12, Concerns: "node web", Cuts: []CutFlows{{Src: "tag:ci", Dst: "tag:db", Ports: "tcp 22", Rule: "grants[1], line 4", Flows: 12}},
		Emptied: []EmptiedGroup{{Group: "group:eng", People: []string{"a@example.com"}, Count: 1}}, Unknown: []string{"x"}, Truncated: []string{},
	}
	for want, v := range map[string]any{
		`{"text":"e30="}`: &PolicyText{Text: []byte("{}")},
		`{"text":"{}","commit":"c0ffee","generation":7,"since":"2026-11-24T12:00:00.25Z"}`: &PolicyInForce{Text: "{}", Commit: "c0ffee", Generation: 7, Since: testTime},
		`{"text":"","generation":0}`: &PolicyInForce{},
		`{"live":20,"cut":12,"cuts":[{"src":"tag:ci","dst":"tag:db","ports":"tcp 22","rule":"grants[1], line 4","flows":12}],"concerns":"node web",` +
			`"emptied":[{"group":"group:eng","people":["a@example.com"],"count":1}],"unknown":["x"],"truncated":[]}`: &impact,
		`{"code":"invalid","message":"m","errors":[{"severity":"error","line":1,"column":2,"message":"x","hint":"y"}]}`: &Problem{
			Code: "invalid", Message: "m", Errors: []acl.Diagnostic{{Severity: acl.SeverityError, Line: 1, Column: 2, Message: "x", Hint: "y"}}},
	} {
		got, err := Marshal(v)
		if err != nil || string(got) != want {
			t.Errorf("%T is written\n%s, want\n%s\n%v", v, got, want, err)
		}
	}
	var back Impact
	text, _ := Marshal(impact)
	if err := Unmarshal(text, &back); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(impact, back); d != "" {
		t.Error(d)
	}
	if got := impact.Cuts[0].String(); got != "tag:db <- tag:ci tcp 22 (grants[1], line 4): 12 flows" {
		t.Error(got)
	}
}

// TestPolicyBodiesRefused is what a server that is no honest coordinator could send, and a client that is none.
func TestPolicyBodiesRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		into any
	}{
		"more cut than live":        {`{"live":1,"cut":2}`, &Impact{}},
		"fewer than none live":      {`{"live":-1,"cut":-1}`, &Impact{}},
		"fewer than none of them":   {`{"live":1,"cut":1,"cuts":[{"flows":-1}]}`, &Impact{}},
		"more lines than there are": {`{"live":1,"cut":1,"cuts":[` + strings.Repeat(`{},`, MaxCuts) + `{}]}`, &Impact{}},
		"a book for a rule":         {`{"live":1,"cut":1,"cuts":[{"rule":"` + strings.Repeat("x", 20_000) + `"}]}`, &Impact{}},
		"a policy over 1 MiB":       {`{"text":"` + strings.Repeat("x", MaxPolicy+1) + `"}`, &PolicyInForce{}},
		"a book for a commit":       {`{"commit":"` + strings.Repeat("x", 2000) + `"}`, &PolicyInForce{}},
		"more errors than acl has":  {`{"errors":[` + strings.Repeat(`{},`, maxProblemErrors) + `{}]}`, &Problem{}},
		"a book for an error":       {`{"errors":[{"message":"` + strings.Repeat("x", 5000) + `"}]}`, &Problem{}},
	} {
		if err := Unmarshal([]byte(c.text), c.into); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckToken(t *testing.T) {
	const good = "picket-token-abcdefghijklm-abcdefghijklmnopqrstuvwxyz"
	if err := CheckToken(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "picket-token-", "picket-token-short", good[1:], "picket-key-" + good[13:], good + "\n", good + "\r\nX-Evil: 1", "picket-token-" + strings.Repeat("a", 129)} {
		err := CheckToken(bad)
		if err == nil || !strings.Contains(err.Error(), "tokens create") {
			t.Errorf("%q: %v", bad, err)
		} else if len(bad) > 20 && strings.Contains(err.Error(), bad[13:]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}
