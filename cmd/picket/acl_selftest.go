package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclTestCommand() *cli.Command {
	return &cli.Command{
		Name:      "test",
		Usage:     "run the tests that a policy file holds",
		ArgsUsage: "FILE",
		Description: "- is standard input. With --directory or --coordinator the nodes there are asked about; where a test names nobody there, one as it would be stands in.\n\n" +
			"Exit status 1 when a test fails, 2 when the policy has errors or the coordinator cannot be asked.\n\nExamples:\n\n" +
			"   picket acl test policy.hujson\n   picket acl test policy.hujson --directory nodes.json\n   picket acl test --format junit policy.hujson >tests.xml\n" +
			"   picket acl test policy.hujson --coordinator 'https://…#…' --token-file token",
		Flags: append(whereFlags(), atFlag(), formatFlag("text", "json", "junit"), &cli.BoolFlag{Name: "json", Usage: "the same as --format json"}),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, 1, "FILE"); err != nil {
				return err
			}
			if c.Bool("json") {
				if err := c.Set("format", "json"); err != nil {
					return err
				}
			}
			write, err := format(c, map[string]func(io.Writer, tested) error{"text": testText, "json": testJSON, "junit": testJUnit})
			if err != nil {
				return err
			}
			t, err := runTests(c)
			if err != nil {
				return err
			}
			if err := write(c.App.Writer, t); err != nil || len(t.failures) == 0 {
				return err
			}
			return cli.Exit("", cliflags.ExitFailed)
		},
	}
}

// tested is a policy's tests with what came of them.
type tested struct {
	path     string
	all      []acl.Expectation
	failures []acl.TestFailure
}

func runTests(c *cli.Context) (tested, error) {
	t := tested{path: c.Args().First()}
	now, err := moment(c)
	if err != nil {
		return t, err
	}
	f, err := readPolicy(c, t.path)
	if err != nil {
		return t, err
	}
	a, err := askerIfGiven(c)
	if err != nil {
		return t, err
	}
	d, err := directoryIfGiven(c, a)
	if err != nil {
		return t, err
	}
	if d == nil {
		d = &acl.Directory{}
	}
	t.all, t.failures = f.policy.Expectations(), f.policy.Test(d, now)
	return t, nil
}

// holding is how many expectations hold.
func (t tested) holding() int { return max(0, len(t.all)-len(t.failures)) }

func testText(w io.Writer, t tested) error {
	name := fileName(t.path)
	for _, f := range t.failures {
		fmt.Fprintf(w, "%s: %s\n", at(name, f.Line, f.Column), protocol.Printable(f.Message))
	}
	if len(t.all) == 0 {
		_, err := fmt.Fprintf(w, "%s has no tests\n", name)
		return err
	}
	holds := map[bool]string{true: "holds", false: "hold"}
	fails := map[bool]string{true: "fails", false: "fail"}
	n, bad := t.holding(), len(t.failures)
	if bad == 0 {
		_, err := fmt.Fprintf(w, "%s %s\n", plural(n, "test"), holds[n == 1])
		return err
	}
	_, err := fmt.Fprintf(w, "%s %s, %d %s\n", plural(n, "test"), holds[n == 1], bad, fails[bad == 1])
	return err
}

func testJSON(w io.Writer, t tested) error {
	type failure struct {
		Line    int    `json:"line"`
		Column  int    `json:"column"`
		Message string `json:"message"`
	}
	failures := []failure{}
	for _, f := range t.failures {
		failures = append(failures, failure{f.Line, f.Column, f.Message})
	}
	return writeJSON(w, struct {
		File     string    `json:"file"`
		Hold     int       `json:"hold"`
		Fail     int       `json:"fail"`
		Failures []failure `json:"failures"`
	}{t.path, t.holding(), len(failures), failures})
}

func testJUnit(w io.Writer, t tested) error {
	type place struct{ line, column int }
	failed := map[place]acl.TestFailure{}
	for _, f := range t.failures {
		failed[place{f.Line, f.Column}] = f
	}
	s := junitSuite{Name: t.path}
	for _, e := range t.all {
		one := junitCase{Class: t.path, Name: e.Text}
		here := place{e.Line, e.Column}
		if f, bad := failed[here]; bad {
			one.Failure = testFailure(t.path, f)
			delete(failed, here)
		}
		s.add(one)
	}
	for _, f := range t.failures { // what concerns no single one
		if _, left := failed[place{f.Line, f.Column}]; left {
			s.add(junitCase{Class: t.path, Name: "the tests", Failure: testFailure(t.path, f)})
		}
	}
	return writeJUnit(w, []junitSuite{s})
}

func testFailure(path string, f acl.TestFailure) *junitFailure {
	return &junitFailure{Message: f.Message, Type: "failure", Text: fmt.Sprintf("%s: %s", at(path, f.Line, f.Column), f.Message)}
}
