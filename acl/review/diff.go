package review

import (
	"fmt"
	"strings"
	"time"

	"picket.internal/acl"
)

// Changes are what one policy changes of another.
type Changes struct {
	Against  string  `json:"against,omitempty"` // what the old policy is, where that is set; else the reader knows
	StandIns bool    `json:"standIns"`          // no directory was given: no number of nodes is known
	Users    int     `json:"users"`
	Nodes    int     `json:"nodes"`
	Lines    []Line  `json:"flows"`
	Also     []Aside `json:"also"`
	Widening bool    `json:"widens"` // Widens, for who reads it as JSON
	// Live is set by who knows what is live; nil is left out.
	Live *Live `json:"live,omitempty"`
}

// Diff compares two policies over a directory, as of now; over stand-ins where d is nil. It fails only when a policy does not compile.
// Neither the sources nor d are changed.
func Diff(old, new *Source, d *acl.Directory, now time.Time) (*Changes, error) {
	out := &Changes{StandIns: d == nil, Lines: []Line{}, Also: []Aside{}}
	if d == nil {
		var err error
		if d, err = standInsFor(old, new); err != nil {
			return nil, err
		}
	} else {
		out.Users, out.Nodes = len(d.Users), len(d.Nodes)
	}
	c, err := newComparison(old, new, d, now, out.StandIns)
	if err != nil {
		return nil, err
	}
	names := [2]*namer{newNamer(old, d, c.world), newNamer(new, d, c.world)}
	out.Lines = append(out.Lines, c.lines(c.run(), names)...)
	out.Also = append(out.Also, asides(old, new)...)
	out.Widening = out.Widens()
	return out, nil
}

func newComparison(old, new *Source, d *acl.Directory, now time.Time, standIns bool, more ...*acl.Ruleset) (*comparison, error) {
	before, err := acl.Compile(old.Policy, d, nil) // the salt is of no matter: no role leaves the comparison
	if err != nil {
		return nil, err
	}
	after, err := acl.Compile(new.Policy, d, nil)
	if err != nil {
		return nil, err
	}
	w := newWorld(d, append([]*acl.Ruleset{before.Ruleset(), after.Ruleset()}, more...)...)
	w.standIns = standIns
	return &comparison{world: w, was: newSide(old, before.Ruleset(), w, now), is: newSide(new, after.Ruleset(), w, now)}, nil
}

// Widens reports whether the new policy lets anybody do more than the old, or watches over less: flows gained or under weaker conditions, an
// owner of a tag, an approver, an SSH rule or an application capability added, a test removed.
func (c *Changes) Widens() bool {
	for _, l := range c.Lines {
		if l.Change == Gained || l.Change == Widened {
			return true
		}
	}
	for _, a := range c.Also {
		if a.Widens {
			return true
		}
	}
	return false
}

// count is the number of lines of one kind.
func (c *Changes) count(k Kind) (n int) {
	for _, l := range c.Lines {
		if l.Change == k {
			n++
		}
	}
	return n
}

// Summary is one sentence without an end mark: "access widens: 2 gained, 1 lost, 1 test removed".
func (c *Changes) Summary() string {
	var words []string
	for _, k := range kinds {
		if n := c.count(k); n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, k))
		}
	}
	tests, others := 0, 0
	for _, a := range c.Also {
		switch {
		case a.Widens && (a.Section == "tests" || a.Section == "sshTests"):
			tests++
		default:
			others++
		}
	}
	if tests > 0 {
		words = append(words, number(tests, "test")+" removed")
	}
	if others > 0 {
		words = append(words, number(others, "other change"))
	}
	switch {
	case len(words) == 0:
		return "nothing changes"
	case c.Widens():
		return "access widens: " + strings.Join(words, ", ")
	}
	return "no access widens: " + strings.Join(words, ", ")
}

func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Basis says what was compared over.
func (c *Changes) Basis() string {
	if c.Against != "" {
		return "with " + c.Against + ", " + basis(c.StandIns, c.Nodes, c.Users)
	}
	return basis(c.StandIns, c.Nodes, c.Users)
}

func basis(standIns bool, nodes, users int) string {
	if standIns {
		return "over stand-ins, one for each name in the policies: no directory was given"
	}
	return fmt.Sprintf("over the %s of %s in the directory", number(nodes, "node"), number(users, "user"))
}

// Cut lists the flows of those given that the old rules allow and the new ones do not, in their order.
func Cut(old, new *acl.Ruleset, flows []acl.Flow, now time.Time) (cut []acl.Flow) {
	for _, f := range flows {
		if old.Allows(f, now).Allow && !new.Allows(f, now).Allow {
			cut = append(cut, f)
		}
	}
	return cut
}
