//go:build linux

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"picket.internal/integration/lab"
	"picket.internal/wgtun/packet"
)

// unfiltered is the agent built without its filter (wgtun/unfiltered.go), made when a test first needs it.
var unfiltered = sync.OnceValues(func() (string, error) {
	const name = "picket-unfiltered"
	cmd := exec.Command("go", "build", "-tags", "picket_unfiltered", "-o", filepath.Join(programs, name), "./cmd/picket")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent without its filter: %w\n%s", err, out)
	}
	return name, nil
})

// rawPolicy allows the same between the rogue and the database, both ways, and from the app to the database.
const rawPolicy = `{
	"tagOwners": {"tag:db": ["alice@example.com"], "tag:rogue": ["alice@example.com"], "tag:app": ["alice@example.com"]},
	"grants": [
		{"src": ["tag:rogue", "tag:app"], "dst": ["tag:db"], "ip": ["tcp:5432", "udp:5353", "icmp:*"]},
		{"src": ["tag:db"], "dst": ["tag:rogue"], "ip": ["tcp:5432", "udp:5353", "icmp:*"]},
	],
}`

const (
	openTCP, openUDP, shutPort = 5432, 5353, 4444
)

// rawNetwork is a network with a node whose own filter is taken out, mallory, beside two honest ones, db and app.
type rawNetwork struct {
	*network
	mallory, db, app *lab.Node
}

func newRawNetwork(t *testing.T) *rawNetwork {
	t.Helper()
	n := &rawNetwork{network: newNetwork(t, false, rawPolicy)}
	program, err := unfiltered()
	n.must(err)
	n.db, n.app = n.server("db", "tag:db"), n.server("app", "tag:app")
	n.mallory, err = n.host("mallory").StartProgram(n.ctx, program)
	n.must(err)
	n.admit(n.mallory, "mallory", "tag:rogue")
	if !strings.Contains(n.mallory.Output(), "this build refuses nothing") {
		t.Error("the node without a filter does not say so in its log")
	}
	if strings.Contains(n.db.Output(), "this build refuses nothing") {
		t.Error("the ordinary build says that it refuses nothing")
	}
	return n
}

// rawEnd is one end of a rawBench.
type rawEnd struct {
	node *lab.Node
	raw  *lab.Raw
	seen [][]byte // what came in during the case
}

// rawBench plays cases between two nodes whose hosts' own stacks are silent. One of the nodes, the judge, has a filter; the other sends and takes whatever
// it is given.
type rawBench struct {
	*rawNetwork
	from, to *rawEnd
	judge    *lab.Node
	egress   bool // the judge is the sender
}

func (n *rawNetwork) end(node *lab.Node) *rawEnd {
	n.t.Helper()
	n.must(node.Host.Silence(node.Interface()))
	raw, err := node.Host.Raw(node.Interface())
	n.must(err)
	return &rawEnd{node: node, raw: raw}
}

// collect moves what came to where tests look.
func (b *rawBench) collect(e *rawEnd) {
	frames, lost := e.raw.Take()
	if lost > 0 {
		b.t.Errorf("%d packets were not captured at %s", lost, e.node.Host.Name)
	}
	for _, f := range frames {
		if !f.Out {
			e.seen = append(e.seen, f.Packet)
		}
	}
}

// holds tells whether a frame is a packet that was sent, or several of one flow joined, of which this one's last bytes are left.
func holds(frame, sent []byte) bool {
	return bytes.Equal(frame, sent) || len(frame) > len(sent) && len(sent) > 40 && bytes.Contains(frame, sent[len(sent)-20:])
}

// claim takes what came of a packet out of what was seen; false when nothing did.
func (e *rawEnd) claim(sent []byte) bool {
	if i := slices.IndexFunc(e.seen, func(f []byte) bool { return bytes.Equal(f, sent) }); i >= 0 {
		e.seen = slices.Delete(e.seen, i, i+1)
		return true
	}
	return false
}

// await waits until a packet has come.
func (b *rawBench) await(e *rawEnd, sent []byte) bool {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		b.collect(e)
		if slices.ContainsFunc(e.seen, func(f []byte) bool { return holds(f, sent) }) {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// ends makes what a case needs.
func (b *rawBench) ends(v6 bool) *ends {
	addr := func(node *lab.Node) netip.Addr { return netip.MustParseAddr(b.address(node, v6)) }
	return &ends{from: addr(b.from.node), to: addr(b.to.node), third: addr(b.app), tcp: openTCP, udp: openUDP, shut: shutPort, next: 20_000}
}

// fence sends a datagram that is allowed, and its answer, and waits for both: whatever was sent before has been judged then, since a tunnel keeps the
// order of packets.
func (b *rawBench) fence(e *ends) {
	b.t.Helper()
	from, to := netip.AddrPortFrom(e.from, 7), e.target(e.udp)
	there, again := rawUDP(from, to), rawUDP(to, from)
	b.must(b.from.raw.Send(there))
	if !b.await(b.to, there) {
		b.t.Fatal("an allowed datagram did not arrive")
	}
	b.must(b.to.raw.Send(again))
	if !b.await(b.from, again) {
		b.t.Fatal("the answer to an allowed datagram did not arrive")
	}
	gone := func(f []byte) bool { return holds(f, there) || holds(f, again) }
	b.from.seen, b.to.seen = slices.DeleteFunc(b.from.seen, gone), slices.DeleteFunc(b.to.seen, gone)
}

// denied is the judge's counters.
func (b *rawBench) denied() map[string]uint64 {
	b.t.Helper()
	st, err := b.judge.Status(b.ctx)
	b.must(err)
	return st.Denied
}

// play runs one case and holds every packet's fate, every counter, and every answer to what was expected.
func (b *rawBench) play(t *testing.T, c rawCase, e *ends) {
	t.Helper()
	b.t = t
	steps := c.steps(e)
	b.fence(e)
	b.from.seen, b.to.seen = nil, nil
	before := b.denied()
	for i, s := range steps {
		here := b.from
		if s.back {
			here = b.to
		}
		if i > 0 && steps[i-1].back != s.back { // what went the other way comes first
			b.fence(e)
		}
		if err := here.raw.Send(s.packet); err != nil {
			t.Fatalf("packet %d cannot be sent: %v", i, err)
		}
	}
	b.fence(e)
	b.check(t, steps, before)
}

// reason is why a step is refused in this bench.
func (b *rawBench) reason(s step) string {
	if b.egress && !s.back && s.egress != "" {
		return s.egress
	}
	return s.why
}

func (b *rawBench) check(t *testing.T, steps []step, before map[string]uint64) {
	t.Helper()
	want := map[string]uint64{}
	var answers []string
	for _, refused := range []bool{false, true} { // what passes first, so that it claims its own where the same was sent twice
		for i, s := range steps {
			there, why := b.to, b.reason(s)
			if s.back {
				there = b.from
			}
			if (why != "") != refused {
				continue
			}
			if came := there.claim(s.packet) || !refused && there.joined(steps, s.packet); came == refused {
				t.Errorf("packet %d, refused for %q: arrived %v\n%x", i, why, came, s.packet)
			}
			if !refused || why == wireguardRefuses {
				continue
			}
			direction := "ingress "
			if b.egress != s.back {
				direction = "egress "
				if a := answerTo(s.packet, why); a != "" {
					answers = append(answers, a)
				}
			}
			want[direction+why]++
		}
	}
	got := b.denied()
	for reason, n := range before {
		if got[reason] -= n; got[reason] == 0 {
			delete(got, reason)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	b.checkAnswers(t, steps, answers)
}

// joined tells whether a packet came in a frame with others.
func (e *rawEnd) joined(steps []step, sent []byte) bool {
	return slices.ContainsFunc(e.seen, func(f []byte) bool {
		return holds(f, sent) && !slices.ContainsFunc(steps, func(s step) bool { return bytes.Equal(f, s.packet) })
	})
}

// checkAnswers holds what else came: at the judge, the answers to what it refused its own host, at once; at the other end, nothing.
func (b *rawBench) checkAnswers(t *testing.T, steps []step, want []string) {
	t.Helper()
	judge, other := b.to, b.from
	if b.egress {
		judge, other = b.from, b.to
	}
	beside := func(e *rawEnd) (out [][]byte) {
		for _, f := range e.seen {
			if !isRun(f) || !slices.ContainsFunc(steps, func(s step) bool { return holds(f, s.packet) }) {
				out = append(out, f)
			}
		}
		return out
	}
	for deadline := time.Now().Add(3 * time.Second); len(beside(judge)) < len(want) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b.collect(judge) // answers are written by another goroutine
	}
	var got []string
	for _, p := range beside(judge) {
		got = append(got, kindOf(p))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the local host was answered %v, want %v", got, want)
	}
	if extra := beside(other); len(extra) > 0 {
		t.Errorf("the other end was sent %x", extra)
	}
}

// answerTo is how a local program is told that its packet was refused: TCP by a reset, all else by an ICMP error, but nothing in answer to resets, ICMP
// errors and answers, and what is malformed or nobody's.
func answerTo(p []byte, why string) string {
	if !slices.Contains([]string{"no-rule", "no-flow", "tcp-closed"}, why) || why == "tcp-closed" {
		return ""
	}
	var v packet.View
	if v.Parse(p) != packet.FaultNone || v.IsLaterFragment() {
		return ""
	}
	switch {
	case v.Proto() == packet.ProtoTCP && v.TCP().Flags&packet.RST != 0:
		return ""
	case v.Proto() == packet.ProtoTCP:
		return "reset"
	case v.IsICMP():
		if kind, _, _ := v.ICMP(); kind != packet.ICMPEchoRequest {
			return ""
		}
	}
	return "prohibited"
}

// isRun tells whether a frame can be several joined: only TCP with data and UDP are.
func isRun(f []byte) bool {
	var v packet.View
	return v.Parse(f) == packet.FaultNone && (v.Proto() == packet.ProtoUDP || v.Proto() == packet.ProtoTCP && v.TCP().Flags&packet.RST == 0)
}

func kindOf(p []byte) string {
	var v packet.View
	if fault := v.Parse(p); fault != packet.FaultNone || !v.TransportChecksumOK() {
		return fmt.Sprintf("what cannot be read (%v): %x", fault, p)
	}
	if v.Proto() == packet.ProtoTCP && v.TCP().Flags&packet.RST != 0 {
		return "reset"
	}
	if v.IsICMP() {
		if _, typ, code := v.ICMP(); typ == packet.Unreachable4 && code == 13 || v.IsIPv6() && typ == packet.Unreachable6 && code == 1 {
			return "prohibited"
		}
	}
	return fmt.Sprintf("something else: %x", p)
}

// playAll runs every case in both families.
func (b *rawBench) playAll(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		family := map[bool]int{false: 4, true: 6}[v6]
		e := b.ends(v6)
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) {
			for _, c := range rawCases {
				if c.only == 0 || c.only == family {
					t.Run(c.name, func(t *testing.T) { b.play(t, c, e) })
				}
			}
		})
	}
}

// TestRawPacketsFromAHostilePeer writes everything that can be crafted into the TUN of a node without a filter: the receiver refuses it by itself, counts why,
// says nothing, and what it was sent is reported with the sender's name.
func TestRawPacketsFromAHostilePeer(t *testing.T) {
	n := newRawNetwork(t)
	b := &rawBench{rawNetwork: n, from: n.end(n.mallory), to: n.end(n.db), judge: n.db}
	began := time.Now()
	b.playAll(t)
	n.t = t
	n.bypassIsReported(b, began)
}

// TestRawPacketsFromALocalProgram has a program with root on an honest node's machine write the same into its TUN: the node refuses it before it is
// encrypted, as the unfiltered other end sees, and answers at once where an honest program would wait.
func TestRawPacketsFromALocalProgram(t *testing.T) {
	n := newRawNetwork(t)
	b := &rawBench{rawNetwork: n, from: n.end(n.db), to: n.end(n.mallory), judge: n.db, egress: true}
	b.playAll(t)
	b.t = t
	b.playOffloads(t)
}

// bypassIsReported is rule 8: within a minute the audit log, the list of nodes and the receiver's own status name the node that does not filter.
func (n *rawNetwork) bypassIsReported(b *rawBench, began time.Time) {
	n.t.Helper()
	e := b.ends(false)
	n.eventually("the bypass is reported", func() error {
		n.must(b.from.raw.Send(tcpSegment{from: e.source(), to: e.target(e.shut), flags: syn}.bytes()))
		if out := n.operate("audit", "list"); !strings.Contains(out, "egress-bypass by mallory") {
			return errors.New(out)
		}
		return nil
	})
	if after := time.Since(began); after > time.Minute {
		n.t.Errorf("it took %v", after)
	}
	if out := n.operate("nodes", "list"); !lineWith(out, "mallory", "egress-bypass") || lineWith(out, "db", "egress-bypass") || lineWith(out, "app", "egress-bypass") {
		n.t.Errorf("nodes list:\n%s", out)
	}
	if out := n.operate("nodes", "show", "mallory"); !lineWith(out, "egress-bypass", "db says so") {
		n.t.Errorf("nodes show:\n%s", out)
	}
	out, err := n.db.CLI(n.ctx, "status")
	if n.must(err); !lineWith(out, "mallory", "egress-bypass") {
		n.t.Errorf("status of the receiver:\n%s", out)
	}
}

// lineWith tells whether one line of a text has all the words.
func lineWith(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}
