//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"picket.internal/integration/lab"
)

// waysPolicy lets alice reach some ports of db and web, and bob every port of alice's laptop.
const waysPolicy = `{
	"tagOwners": {"tag:db": ["alice@example.com"], "tag:web": ["alice@example.com"]},
	"grants": [
		{"src": ["alice@example.com"], "dst": ["tag:db", "tag:web"], "ip": ["tcp:15432", "udp:15353", "tcp:15434"]},
		{"src": ["bob@example.com"], "dst": ["alice@example.com"], "ip": ["*"]},
	],
}`

// TestRootlessWays leads TCP and datagrams in and out of nodes without an interface by every way, and nobody where he may not go. All nodes have
// one loopback here, which is each one's own.
func TestRootlessWays(t *testing.T) {
	n := newNetwork(t, true, waysPolicy)
	alice, bob, db := n.laptop("alice"), n.laptop("bob"), n.server("db", "tag:db")
	for _, at := range []string{"tcp 15432", "udp 15353", "udp 15354"} {
		proto, port, _ := strings.Cut(at, " ")
		_, err := db.Host.Serve(n.ctx, proto, "127.0.0.1:"+port)
		n.must(err)
	}
	a := n.associate(alice.SOCKS5)
	a.echoes(n.at(db, 15353))
	n.must(a.send(n.at(db, 15354), "not allowed"))
	a.echoes(n.at(db, 15353))
	a.silent("a port that no rule allows")
	if out, err := alice.CLI(n.ctx, "denials"); err != nil || !strings.Contains(out, "15354") {
		t.Errorf("the refused datagram is not in the list: %v\n%s", err, out)
	}

	tcp, udp := freePort(t), freePort(t)
	n.passage(alice, "Listening at", "forward", tcp+":db:15432")
	n.passage(alice, "Listening at", "forward", "--udp", udp+":db:15353")
	f, err := alice.Host.Connect(n.ctx, "tcp", "127.0.0.1:"+tcp)
	n.must(err)
	d, err := alice.Host.Connect(n.ctx, "udp", "127.0.0.1:"+udp)
	n.must(err)
	d.Kill()
	n.noWayThrough(bob, alice, db, number(tcp), number(udp))
	n.exposes(alice, db)

	began := time.Now()
	n.inForce(strings.ReplaceAll(waysPolicy, `"tcp:15432", `, ""))
	after, err := f.WaitCut(n.ctx, began)
	n.must(err)
	if after > cutWorst {
		t.Errorf("a forwarded connection is cut only %v after the commit", after)
	}
}

// noWayThrough has bob, who may come to every port of alice's, try to go on to db by her proxy, an association and forwards.
func (n *network) noWayThrough(bob, alice, db *lab.Node, tcp, udp uint16) {
	_, err := alice.Host.Serve(n.ctx, "tcp", "127.0.0.1:15435")
	n.must(err)
	through, err := bob.Dial(n.ctx, "tcp", n.at(alice, 15435).String())
	n.must(err)
	through.Kill()
	var r *lab.Refusal
	if _, err := bob.Dial(n.ctx, "tcp", n.at(alice, tcp).String()); !errors.As(err, &r) {
		n.t.Errorf("through alice's forward: %v", err)
	}
	_, socks, _ := net.SplitHostPort(alice.SOCKS5)
	first, err := proxy.SOCKS5("tcp", bob.SOCKS5, nil, nil)
	n.must(err)
	second, err := proxy.SOCKS5("tcp", n.at(alice, number(socks)).String(), nil, first)
	n.must(err)
	if c, err := second.Dial("tcp", n.at(db, 15432).String()); err == nil {
		c.Close()
		n.t.Error("through alice's proxy bob reaches db")
	}

	fresh := n.associate(alice.SOCKS5) // whose first datagram would be bob's
	b := n.associate(bob.SOCKS5)
	n.must(b.send(n.at(alice, fresh.relay.Port()), string(header(n.at(db, 15353)))+"through an association"))
	n.must(b.send(n.at(alice, udp), "through a forward"))
	fresh.echoes(n.at(db, 15353))
	_, err = alice.Host.Serve(n.ctx, "udp", "127.0.0.1:15355")
	n.must(err)
	b.echoes(n.at(alice, 15355)) // later than the others, and he may
	b.silent("alice's association or forward")
}

// exposes leads alice to another port of db, and of a node that shows nothing else.
func (n *network) exposes(alice, db *lab.Node) {
	web, err := n.host("web").StartNode(n.ctx, "--inbound=exposed")
	n.must(err)
	n.admit(web, "web", "tag:web")
	reach := func(node *lab.Node) {
		n.t.Helper()
		n.passage(node, "15434 of this node arrive at 127.0.0.1:15432", "expose", "15434:15432")
		f, err := alice.Dial(n.ctx, "tcp", n.at(node, 15434).String())
		n.must(err)
		f.Kill()
	}
	reach(db)
	reach(web)
	var r *lab.Refusal
	if _, err := alice.Dial(n.ctx, "tcp", n.at(web, 15432).String()); !errors.As(err, &r) {
		n.t.Errorf("what web does not expose: %v", err)
	}
	n.passage(web, "no rule lets a peer in at tcp 9 now", "expose", "9")
}

// at is a port of a node in the overlay.
func (n *network) at(node *lab.Node, port uint16) netip.AddrPort {
	n.t.Helper()
	return netip.AddrPortFrom(netip.MustParseAddr(n.address(node, false)), port)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func number(port string) uint16 {
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// passage runs a command of the node that lasts, and waits until it says so.
func (n *network) passage(node *lab.Node, says string, args ...string) *lab.Process {
	n.t.Helper()
	p, err := node.Host.Start(args[0]+strconv.FormatInt(time.Now().UnixNano(), 10), append(strings.Fields(node.Command()), args...)...)
	n.must(err)
	n.must(p.WaitFor(n.ctx, says, func(out string) bool { return strings.Contains(out, says) }))
	return p
}

// association is a client of a SOCKS5 proxy's UDP ASSOCIATE, RFC 1928 section 7.
type association struct {
	n     *network
	relay netip.AddrPort
	conn  net.Conn
}

func (n *network) associate(socks string) *association {
	n.t.Helper()
	c, err := net.Dial("tcp", socks)
	n.must(err)
	n.t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	n.must(err)
	answer := make([]byte, 12)
	_, err = io.ReadFull(c, answer)
	n.must(err)
	a := &association{n: n, relay: netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[6:10])), binary.BigEndian.Uint16(answer[10:]))}
	a.conn, err = net.Dial("udp", a.relay.String())
	n.must(err)
	n.t.Cleanup(func() { a.conn.Close() })
	return a
}

func header(to netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(append([]byte{0, 0, 0, 1}, to.Addr().AsSlice()...), to.Port())
}

func (a *association) send(to netip.AddrPort, text string) error {
	_, err := a.conn.Write(append(header(to), text...))
	return err
}

// echoes sends until an echo comes back, as the first may be lost, and takes all echoes of it.
func (a *association) echoes(to netip.AddrPort) {
	a.n.t.Helper()
	a.n.eventually("an echo from "+to.String(), func() error {
		if err := a.send(to, "hello"); err != nil {
			return err
		}
		got, err := a.read(time.Second)
		if err == nil && got != string(header(to))+"hello" {
			a.n.t.Fatalf("%q came back from %s", got, to)
		}
		return err
	})
}

func (a *association) read(within time.Duration) (string, error) {
	a.conn.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 2048)
	n, err := a.conn.Read(b)
	return string(b[:n]), err
}

// silent wants that nothing but late echoes comes. It is called when a later datagram was answered.
func (a *association) silent(what string) {
	a.n.t.Helper()
	for {
		got, err := a.read(200 * time.Millisecond)
		if err != nil {
			return
		}
		if !strings.HasSuffix(got, "hello") {
			a.n.t.Errorf("%s: %q came back", what, got)
		}
	}
}

// TestForwardWithInterface leads both ways between real TUN devices.
func TestForwardWithInterface(t *testing.T) {
	n := newNetwork(t, false, policyFor(`"tcp:5432", "udp:5353", "tcp:8080"`))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	for _, at := range []string{"tcp [::]:5432", "udp [::]:5353", "tcp 127.0.0.1:18080"} {
		proto, address, _ := strings.Cut(at, " ")
		_, err := db.Host.Serve(n.ctx, proto, address)
		n.must(err)
	}
	n.passage(alice, "Listening at [::1]:6000", "forward", "6000:db:5432", "[::1]:6000:"+n.address(db, false)+":5432")
	n.passage(alice, "Listening at", "forward", "--udp", "6001:db:5353")
	f, err := alice.Host.Connect(n.ctx, "tcp", "127.0.0.1:6000")
	n.must(err)
	for _, at := range []string{"tcp [::1]:6000", "udp 127.0.0.1:6001"} {
		proto, address, _ := strings.Cut(at, " ")
		f, err := alice.Host.Connect(n.ctx, proto, address)
		n.must(err)
		f.Kill()
	}

	n.passage(db, n.address(db, true)+" arrive at 127.0.0.1:18080", "expose", "8080:18080")
	for _, v6 := range []bool{false, true} {
		f, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(db, v6), "8080"))
		n.must(err)
		f.Kill()
	}
	var r *lab.Refusal
	if _, err := alice.Host.Connect(n.ctx, "tcp", net.JoinHostPort(db.Host.IP.String(), "8080")); !errors.As(err, &r) {
		t.Errorf("exposed outside the overlay: %v", err)
	}
	if _, err := db.Host.Connect(n.ctx, "tcp", net.JoinHostPort(n.address(db, false), "8080")); !errors.As(err, &r) {
		t.Errorf("exposed to who is no peer: %v", err)
	}
	if out, err := db.CLI(n.ctx, "expose", "--udp", "5353"); err == nil || !strings.Contains(out+err.Error(), "--tun=userspace") {
		t.Errorf("expose --udp says %q, %v", out, err)
	}
	if out, err := db.CLI(n.ctx, "expose", "5432"); err == nil || !strings.Contains(out+err.Error(), "reach it already") {
		t.Errorf("expose of a port that is taken says %q, %v", out, err)
	}

	alice.Kill()
	n.must(alice.Start(n.ctx))
	n.eventually("the forward is back with its agent", func() error {
		f, err = alice.Host.Connect(n.ctx, "tcp", "127.0.0.1:6000")
		return err
	})
	began := time.Now()
	n.inForce(policyFor(`"tcp:9"`))
	after, err := f.WaitCut(n.ctx, began)
	n.must(err)
	if after > cutWorst {
		t.Errorf("a forwarded connection is cut only %v after the commit", after)
	}
}
