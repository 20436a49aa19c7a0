package review

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLiveFlowsAreShown(t *testing.T) {
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprint("n", i))
	}
	for name, c := range map[string]struct {
		live           Live
		text, markdown string
	}{
		"none live":    {Live{}, "No flow is live that could be cut.\n", "\nNo flow is live that could be cut.\n"},
		"none cut":     {Live{Flows: 7}, "None of the 7 live flows would be cut.\n", "\nNone of the 7 live flows would be cut.\n"},
		"one, not cut": {Live{Flows: 1}, "The one live flow would not be cut.\n", "\nThe one live flow would not be cut.\n"},
		"some cut": {
			Live{Flows: 20, Cut: 12, Concerns: "node a`b", Emptied: []string{"group:eng (2 people)"}, Unknown: []string{"x", "y"}, Partly: many, Cuts: []LiveCut{
				{"tag:ci", "tag:db", "tcp 22", "grants[1], line 4", 10}, {"a`@x", "tag:db", "icmp", "grants[0], line 3", 1}}},
			`12 of the 20 live flows would be cut.

Live flows that would be cut:
  - tag:ci -> tag:db tcp 22 (was grants[1], line 4): 10 flows
  - a` + "`" + `@x -> tag:db icmp (was grants[0], line 3): 1 flow
  - and 1 flow more
  - one end of each is node a` + "`" + `b
  - nobody would be in group:eng (2 people) any more
  ! not counted, as they do not answer: x, y
  ! counted in part, as they have too many: n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 10 more
`, `
**12 of the 20 live flows would be cut**.

**Live flows that would be cut (7)**

` + "```diff" + `
- tag:ci -> tag:db tcp 22 (was grants[1], line 4): 10 flows
- a'@x -> tag:db icmp (was grants[0], line 3): 1 flow
- and 1 flow more
- one end of each is node a'b
- nobody would be in group:eng (2 people) any more
! not counted, as they do not answer: x, y
! counted in part, as they have too many: n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 10 more
` + "```\n"},
	} {
		t.Run(name, func(t *testing.T) {
			x := &Changes{StandIns: true, Live: &c.live}
			for form, f := range map[string]struct {
				write func(*strings.Builder)
				want  string
			}{
				"text":     {func(b *strings.Builder) { x.WriteText(b) }, "Nothing changes (compared over stand-ins, one for each name in the policies: no directory was given).\n" + c.text},
				"markdown": {func(b *strings.Builder) { x.WriteMarkdown(b) }, "### Policy review\n\n**No access widens**: nothing changes (compared over stand-ins, one for each name in the policies: no directory was given).\n" + c.markdown},
			} {
				var b strings.Builder
				f.write(&b)
				if d := cmp.Diff(f.want, b.String()); d != "" {
					t.Errorf("%s: %s", form, d)
				}
			}
		})
	}
}

// TestLiveFlowsLeaveWhatWidensAlone: what is cut makes nothing wider, and nothing narrower either.
func TestLiveFlowsLeaveWhatWidensAlone(t *testing.T) {
	x := &Changes{Live: &Live{Flows: 3, Cut: 3}}
	if x.Widens() {
		t.Error("cut flows widen access")
	}
	x.Also = []Aside{{Widens: true}}
	if !x.Widens() {
		t.Error("cut flows hide what widens")
	}
}
