package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclEvalCommand() *cli.Command {
	return &cli.Command{
		Name:  "eval",
		Usage: "answer questions about flows, one JSON object a line",
		Description: "Questions come on standard input, answers leave on standard output, in the same order. Empty lines are passed over.\n\n" +
			"Exit status 1 when a question could not be read, 2 when the policy or the directory has errors or the coordinator cannot be asked: then nothing is answered. " +
			"With --coordinator, and without --policy, it is the policy in force.\n\nExamples:\n\n" +
			"   picket acl eval --policy policy.hujson --directory nodes.json <questions\n" +
			"   picket acl eval --coordinator 'https://…#…' --token-file token <questions\n\nQuestions and answers:\n\n" +
			`   {"src":"100.64.0.7","dst":"100.64.0.8","proto":"tcp","port":22}` + "\n" +
			`   {"src":"100.64.0.7","dst":"100.64.0.8","proto":"icmp"}` + "\n" +
			`   {"allow":true,"rule":"grants[0]","line":3}` + "\n" +
			`   {"allow":false,"reason":"no rule lets laptop reach db-1 on icmp"}` + "\n" +
			`   {"error":"line 3: proto is missing"}`,
		Flags: append([]cli.Flag{policyFlag(), atFlag()}, whereFlags()...),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			if err := needBoth(c); err != nil {
				return err
			}
			if c.String("policy") == "-" || c.String("directory") == "-" {
				return cliflags.Usage(c, "standard input is for the questions: give --policy and --directory files")
			}
			e, err := newEvaluator(c)
			if err != nil {
				return err
			}
			bad, err := e.run(c.App.Reader, c.App.Writer)
			if err == nil && bad > 0 {
				err = fmt.Errorf("%s could not be read", plural(bad, "question"))
			}
			return err
		},
	}
}

// evaluator answers questions by one policy and directory.
type evaluator struct {
	judge *acl.Judge
	names map[acl.NodeID]string
	now   func() time.Time
}

func newEvaluator(c *cli.Context) (*evaluator, error) {
	at, err := moment(c)
	if err != nil {
		return nil, err
	}
	f, d, err := readBoth(c)
	if err != nil {
		return nil, err
	}
	compiled, err := acl.Compile(f.policy, d, nil)
	if err != nil {
		return nil, cli.Exit(err, cliflags.ExitUsage)
	}
	e := &evaluator{judge: acl.NewJudge(compiled.Ruleset()), names: nodeNames(d), now: time.Now}
	if c.IsSet("at") {
		e.now = func() time.Time { return at }
	}
	return e, nil
}

// nodeNames are what people call nodes.
func nodeNames(d *acl.Directory) map[acl.NodeID]string {
	names := make(map[acl.NodeID]string, len(d.Nodes))
	for _, n := range d.Nodes {
		names[n.ID] = n.Name
	}
	return names
}

// maxQuestion bounds a line, in bytes.
const maxQuestion = 64 << 10

// run answers until the questions end, and returns how many could not be read. Answers are handed on whenever it would wait for a question.
func (e *evaluator) run(in io.Reader, out io.Writer) (bad int, err error) {
	r, w := bufio.NewReaderSize(in, maxQuestion), bufio.NewWriter(out)
	for n := 1; ; n++ {
		line, err := nextLine(r, w)
		if err == io.EOF && len(line) == 0 {
			return bad, w.Flush()
		}
		if err != nil && err != io.EOF && !errors.Is(err, errLong) {
			return bad, errors.Join(err, w.Flush())
		}
		if line = bytes.TrimSpace(line); len(line) == 0 && err == nil {
			continue
		}
		answer, problem := e.answer(line)
		if errors.Is(err, errLong) {
			problem = err
		}
		if problem != nil {
			bad++
			answer = failure{fmt.Sprintf("line %d: %s", n, protocol.Printable(problem.Error()))}
		}
		b, err := json.Marshal(answer, jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return bad, err
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return bad, err
		}
	}
}

var errLong = fmt.Errorf("it is longer than %d KiB", maxQuestion>>10)

// nextLine returns a line, valid until the next call, or errLong for one that is too long, which it passes over.
func nextLine(r *bufio.Reader, w *bufio.Writer) ([]byte, error) {
	if waiting, _ := r.Peek(r.Buffered()); bytes.IndexByte(waiting, '\n') < 0 {
		if err := w.Flush(); err != nil {
			return nil, err
		}
	}
	line, err := r.ReadSlice('\n')
	long := err == bufio.ErrBufferFull
	for err == bufio.ErrBufferFull {
		_, err = r.ReadSlice('\n')
	}
	if long && (err == nil || err == io.EOF) {
		return nil, errLong
	}
	return line, err
}

// The forms of questions and answers.
type (
	question struct {
		Src   string         `json:"src"`
		Dst   string         `json:"dst"`
		Proto jsontext.Value `json:"proto"`
		Port  jsontext.Value `json:"port"`
	}
	verdict struct {
		Allow  bool   `json:"allow"`
		Rule   string `json:"rule,omitzero"`
		Line   int    `json:"line,omitzero"`
		Reason string `json:"reason,omitzero"`
	}
	failure struct {
		Error string `json:"error"`
	}
)

func (e *evaluator) answer(line []byte) (any, error) {
	f, err := readQuestion(line)
	if err != nil {
		return nil, err
	}
	x := e.judge.Explain(f, e.now())
	if x.Allow {
		return verdict{Allow: true, Rule: fmt.Sprintf("%s[%d]", x.Rule.Ref.Section, x.Rule.Ref.Index), Line: x.Rule.Ref.Line}, nil
	}
	return verdict{Reason: x.Text(func(id acl.NodeID) string { return e.names[id] })}, nil
}

// readQuestion reads one question, strictly: what is read over could be what was meant (R28).
func readQuestion(line []byte) (f acl.Flow, err error) {
	var q question
	if err := json.Unmarshal(line, &q, json.RejectUnknownMembers(true)); err != nil {
		return f, jsonProblem(err)
	}
	if f.Src, err = questionAddress("src", q.Src); err != nil {
		return f, err
	}
	if f.Dst, err = questionAddress("dst", q.Dst); err != nil {
		return f, err
	}
	proto, err := scalar("proto", q.Proto)
	if err != nil {
		return f, err
	}
	named, ok := acl.ParseProto(proto)
	switch {
	case proto == "":
		return f, errors.New("proto is missing")
	case !ok:
		return f, fmt.Errorf("%.40q is no protocol: tcp, udp, icmp and others, or a number from 1 to 255", proto)
	}
	f.Proto = named.For(f.Dst)
	f.Port, err = questionPort(q.Port, f.Proto)
	return f, err
}

// jsonProblem is err in fewer words.
func jsonProblem(err error) error {
	var semantic *json.SemanticError
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("it cannot be read: %w", syntax.Err)
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return fmt.Errorf("unknown field %.40q: a question has src, dst, proto and port", semantic.JSONPointer.LastToken())
	case errors.As(err, &semantic) && semantic.JSONPointer != "":
		return fmt.Errorf("%s cannot be %s", semantic.JSONPointer.LastToken(), semantic.JSONKind)
	}
	return errors.New("it is no JSON object")
}

func questionAddress(field, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, fmt.Errorf("%s is missing", field)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%s %.80q is no address", field, s)
	}
	return a, nil
}

// questionPort reads a destination port in canonical digits (R34).
func questionPort(v jsontext.Value, proto acl.Proto) (uint16, error) {
	s, err := scalar("port", v)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case s == "" && proto.HasPorts():
		return 0, fmt.Errorf("port is missing: %s has ports", proto)
	case s == "":
		return 0, nil
	case err != nil || strconv.FormatUint(n, 10) != s:
		return 0, fmt.Errorf("%.40q is no port", s)
	case n != 0 && !proto.HasPorts():
		return 0, fmt.Errorf("%s has no ports: leave port out", proto)
	}
	return uint16(n), nil
}

// scalar is the text of a string or number; "" for what is missing.
func scalar(field string, v jsontext.Value) (string, error) {
	switch v.Kind() {
	case 0, 'n':
		return "", nil
	case '0':
		return string(v), nil
	case '"':
		b, err := jsontext.AppendUnquote(nil, v)
		if err != nil || strings.TrimSpace(string(b)) == "" {
			return "", fmt.Errorf("%s is empty", field)
		}
		return string(b), nil
	}
	return "", fmt.Errorf("%s must be a name or a number", field)
}
