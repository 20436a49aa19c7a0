//go:build linux

package integration

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"picket.internal/integration/lab"
	"picket.internal/picket"
)

// policyForPrograms lets alice, and nobody else, reach programs on a port; they may reach hers that need no privilege.
func policyForPrograms(port string) string {
	return `{
	"tagOwners": {"tag:app": ["alice@example.com"]},
	"grants": [
		{"src": ["alice@example.com"], "dst": ["tag:app"], "ip": ["tcp:` + port + `"]},
		{"src": ["bob@example.com"], "dst": ["tag:app"], "ip": ["icmp:*"]},
		{"src": ["tag:app"], "dst": ["alice@example.com"], "ip": ["tcp:1024-65535"]},
	],
}`
}

// TestGreeter builds and runs the example: it joins by auth key, and greets by name whom the policy lets in.
func TestGreeter(t *testing.T) {
	n := newNetwork(t, true, policyForPrograms("80"))
	alice, bob := n.laptop("alice"), n.laptop("bob")
	program := filepath.Join(t.TempDir(), "greeter")
	build := exec.Command("go", "build", "-o", program, "./picket/examples/greeter")
	build.Dir, build.Env = "..", append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:app")
	n.must(err)
	host := n.host("greeter")
	greeter, err := host.Start("greeter", "env", "PICKET_AUTH_KEY="+key, program, "-coordinator", n.coordinator.Join, "-state", filepath.Join(host.Dir, "state"))
	n.must(err)
	n.must(greeter.WaitFor(n.ctx, "greeter listening", func(out string) bool { return strings.Contains(out, "Listening") }))

	if text, err := get(n.ctx, alice, "http://greeter/"); err != nil || text != "Hello alice@example.com on alice\n" {
		t.Errorf("alice reads %q, %v", text, err)
	}
	if text, err := get(n.ctx, bob, "http://greeter/"); err == nil {
		t.Errorf("bob reads %q", text)
	}
	n.must(greeter.Stop(20 * time.Second))
}

// get fetches a page through the proxy of an agent.
func get(ctx context.Context, by *lab.Node, page string) (string, error) {
	proxy := &url.URL{Scheme: "socks5", Host: by.SOCKS5}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// embed starts a node in this process.
func (n *network) embed(c picket.Config) *picket.Node {
	n.t.Helper()
	c.Coordinator = n.coordinator.Join
	p, err := picket.Start(n.ctx, c)
	n.must(err)
	n.t.Cleanup(func() { p.Close() })
	return p
}

// TestEmbedded has a node in this process: who calls is known by name, nothing but its listeners is reached, a policy change cuts what is live, and
// Close leaves nothing.
func TestEmbedded(t *testing.T) {
	n := newNetwork(t, true, policyForPrograms("*"))
	alice, bob := n.laptop("alice"), n.laptop("bob")
	back, err := alice.Host.Port(15432)
	n.must(err)
	_, err = alice.Host.Serve(n.ctx, "tcp", "127.0.0.1:"+back)
	n.must(err)
	secret := hostService(t)
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:app")
	n.must(err)

	before := goleak.IgnoreCurrent()
	config := picket.Config{Dir: filepath.Join(t.TempDir(), "state"), AuthKey: key, Name: "app"}
	app := n.embed(config)
	l, err := app.Listen("tcp", ":80")
	n.must(err)
	calls := make(chan call, 1)
	go answer(app, l, calls)
	own := app.Addresses()[0].String()

	f, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(own, "80"))
	n.must(err)
	for who, dial := range map[string]func() (*lab.Flow, error){
		"somebody else":         func() (*lab.Flow, error) { return bob.Dial(n.ctx, "tcp", net.JoinHostPort(own, "80")) },
		"a service of the host": func() (*lab.Flow, error) { return alice.Dial(n.ctx, "tcp", net.JoinHostPort(own, secret)) },
	} {
		var r *lab.Refusal
		if _, err := dial(); !errors.As(err, &r) {
			t.Errorf("%s: %v, want a refusal", who, err)
		}
	}
	n.reachesPeersAlone(app, back)
	n.knowsPeersAlone(app, n.address(alice, false))

	began := time.Now()
	n.inForce(policyForPrograms("9"))
	after, err := f.WaitCut(n.ctx, began)
	n.must(err)
	if after > cutWorst {
		t.Errorf("cut only %v after the commit", after)
	}
	c := <-calls
	if c.err != nil || c.caller.User != "alice@example.com" || c.caller.Name != "alice" || len(c.caller.Tags) != 0 || c.caller.UserID == "" {
		t.Errorf("the caller is %+v, %v", c.caller, c.err)
	}
	if !errors.Is(c.end, syscall.ECONNRESET) {
		t.Errorf("the connection that was cut ended with %v, want a reset", c.end)
	}

	addresses := app.Addresses()
	if second, err := picket.Start(n.ctx, config); err == nil || !strings.Contains(err.Error(), "another directory in Config.Dir") {
		t.Errorf("a second node with the same directory: %v, %v", second, err)
	}
	n.must(app.Close())
	for _, of := range []func() error{
		app.Err,
		func() error { _, err := app.Listen("tcp", ":81"); return err },
		func() error { _, err := app.ListenPacket("udp", ":81"); return err },
		func() error { _, err := app.Dial(n.ctx, "tcp", "alice:"+back); return err },
		func() error { _, err := app.WhoIs(own); return err },
		func() error { _, err := l.Accept(); return err },
	} {
		if err := of(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	config.AuthKey = ""
	if app = n.embed(config); app.Addresses()[0] != addresses[0] {
		t.Errorf("after a restart it is at %v, before at %v", app.Addresses(), addresses)
	}
	n.operate("nodes", "remove", "app")
	n.eventually("the node says that it was removed", func() error {
		if err := app.Err(); err == nil || !strings.Contains(err.Error(), "removed") {
			return errors.New("not yet")
		}
		return nil
	})
	n.must(app.Close())
	labs := goleak.IgnoreAnyFunction("picket.internal/integration/lab.(*thread).daemon.func1") // waits for one of its processes
	if err := goleak.Find(before, labs); err != nil {
		t.Error(err)
	}
}

// call is what the program knew of one.
type call struct {
	caller picket.Caller
	err    error
	end    error // of the connection
}

// answer echoes the first connection to its end.
func answer(p *picket.Node, l net.Listener, calls chan<- call) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	who, err := p.WhoIs(c.RemoteAddr().String())
	_, end := io.Copy(c, c)
	calls <- call{who, err, end}
}

// hostService listens on loopback, for nobody: the port.
func hostService(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func (n *network) reachesPeersAlone(p *picket.Node, port string) {
	n.t.Helper()
	c, err := p.Dial(n.ctx, "tcp", "alice:"+port)
	n.must(err)
	defer c.Close()
	_, err = c.Write([]byte("line\n"))
	n.must(err)
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "line\n" {
		n.t.Errorf("the echo is %q, %v", b, err)
	}
	if _, err := p.Dial(n.ctx, "tcp", "alice:22"); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "policy") {
		n.t.Errorf("a port that is not allowed: %v", err)
	}
	for _, to := range []string{"localhost:" + port, "127.0.0.1:" + port, "example.com:80", p.Addresses()[0].String() + ":80", "app:80", "alice"} {
		if c, err := p.Dial(n.ctx, "tcp", to); err == nil {
			c.Close()
			n.t.Errorf("%s was reached", to)
		}
	}
}

func (n *network) knowsPeersAlone(p *picket.Node, alice string) {
	n.t.Helper()
	if c, err := p.WhoIs(alice); err != nil || c.User != "alice@example.com" {
		n.t.Errorf("%+v, %v", c, err)
	}
	nobody := p.Addresses()[0].Prev()
	if nobody == netip.MustParseAddr(alice) {
		nobody = nobody.Prev()
	}
	for _, remote := range []string{nobody.String() + ":80", p.Addresses()[0].String(), "127.0.0.1:80", "alice", "", alice + ":x"} {
		if c, err := p.WhoIs(remote); err == nil {
			n.t.Errorf("%q is %+v", remote, c)
		}
	}
}

// TestEmbeddedLogin has a person let a program in.
func TestEmbeddedLogin(t *testing.T) {
	n := newNetwork(t, true, policyForPrograms("80"))
	alice := n.person("alice")
	asked, approved := make(chan *lab.Joining, 1), make(chan error, 1)
	host := n.host("alice")
	go func() {
		j := <-asked
		_, err := host.Approve(n.ctx, alice, j, j.Code)
		approved <- err
	}()
	app := n.embed(picket.Config{
		Dir: filepath.Join(t.TempDir(), "state"), Name: "app",
		OnLogin: func(url, code string) { asked <- &lab.Joining{URL: url, Code: code} },
	})
	n.must(<-approved)
	if err := app.Err(); err != nil || len(app.Addresses()) == 0 {
		t.Errorf("%v at %v", err, app.Addresses())
	}
}
