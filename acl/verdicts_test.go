package acl

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// verdicts are archives of a policy, a directory and questions with the answer expected, "SRC DST PROTO [PORT] = allow RULE LINE" or
// "= refuse". SRC and DST are addresses or a node's name, NAME/6 for its IPv6 address. reasons is what is said of each refusal.
const verdicts = "testdata/verdicts/*.txtar"

func TestVerdicts(t *testing.T) {
	eachArchive(t, verdicts, func(t *testing.T, path string, a *txtar.Archive) {
		w := &verdictWorld{policy: mustParse(t, fileNamed(a, "policy.hujson")), dir: mustDirectory(t, fileNamed(a, "directory.json"))}
		w.compiled = mustCompile(t, w.policy, w.dir)
		var reasons strings.Builder
		for line := range strings.Lines(fileNamed(a, "questions")) {
			question, want, _ := strings.Cut(strings.TrimSpace(line), " = ")
			reasons.WriteString(w.ask(t, question, want))
		}
		if want := fileNamed(a, "reasons"); !*update && reasons.String() != want {
			t.Errorf("reasons (-want +got):\n%s", cmp.Diff(want, reasons.String()))
		}
		for i := range a.Files {
			if a.Files[i].Name == "reasons" {
				a.Files[i].Data = []byte(reasons.String())
			}
		}
		rewrite(t, path, a, a.Files)
	})
}

type verdictWorld struct {
	policy   *Policy
	dir      *Directory
	compiled *Compiled
}

// ask compares the answer of the whole ruleset, and those of both ends' views, with want. It returns the reason of a refusal, as a line.
func (w *verdictWorld) ask(t *testing.T, question, want string) string {
	t.Helper()
	f := w.flow(t, question)
	whole := w.compiled.Ruleset()
	d := whole.Allows(f, now)
	if got := verdict(d); got != want {
		t.Errorf("%s = %s, want %s (%s)", question, got, want, d.Reason)
	}
	for _, a := range []netip.Addr{f.Src, f.Dst} {
		s, _ := whole.SubjectOf(a)
		if s == nil {
			continue
		}
		v, _ := w.compiled.View(s.Node)
		if got := verdict(v.Ruleset().Allows(f, now)); got != want {
			t.Errorf("%s = %s in the view of %s, want %s", question, got, s.Node, want)
		}
	}
	if d.Allow {
		return ""
	}
	return question + ": " + whole.Explain(f, now).Text(w.name) + "\n"
}

func verdict(d Decision) string {
	if !d.Allow {
		return "refuse"
	}
	return fmt.Sprintf("allow %s[%d] %d", d.Rule.Ref.Section, d.Rule.Ref.Index, d.Rule.Ref.Line)
}

func (w *verdictWorld) name(id NodeID) string {
	for _, n := range w.dir.Nodes {
		if n.ID == id {
			return n.Name
		}
	}
	return string(id)
}

func (w *verdictWorld) flow(t *testing.T, question string) (f Flow) {
	t.Helper()
	words := strings.Fields(question)
	proto, ok := ParseProto(words[2])
	if !ok {
		t.Fatalf("question %q: no such protocol", question)
	}
	f = Flow{Src: w.address(t, words[0]), Dst: w.address(t, words[1]), Proto: proto}
	if len(words) > 3 {
		n, ok := decimal(words[3], lastPort)
		if !ok {
			t.Fatalf("question %q: no such port", question)
		}
		f.Port = uint16(n)
	}
	return f
}

func (w *verdictWorld) address(t *testing.T, s string) netip.Addr {
	t.Helper()
	name, six := strings.CutSuffix(s, "/6")
	for _, n := range w.dir.Nodes {
		for _, a := range n.Addresses {
			if n.Name == name && a.Is6() == six {
				return a
			}
		}
	}
	return netip.MustParseAddr(s)
}
