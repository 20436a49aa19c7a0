//go:build linux

package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// frontName is what the proxy of docs/relays.md is called.
const frontName = "picket.example.com"

// front is a host on which Debian's nginx stands before the coordinator.
type front struct {
	*lab.Host
	etc   string
	nginx *lab.Process
	cert  []byte // that nodes see, PEM
}

// snippets are the nginx blocks of docs/relays.md: the one that ends TLS, and the one that passes TCP on.
func snippets(t *testing.T) (server, stream string) {
	t.Helper()
	text, err := os.ReadFile("../docs/relays.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```nginx\n")
	if len(parts) != 3 {
		t.Fatalf("docs/relays.md has %d nginx blocks, want two", len(parts)-1)
	}
	server, _, _ = strings.Cut(parts[1], "```")
	stream, _, _ = strings.Cut(parts[2], "```")
	return server, stream
}

// selfSigned makes a certificate for a name, and its key, as PEM.
func selfSigned(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// newFront makes the host; start starts nginx.
func newFront(n *network, coordinator string) *front {
	n.t.Helper()
	f := &front{Host: n.host("front")}
	var err error
	f.etc, err = f.OwnEtc(map[string]string{"passwd": users, "group": groups})
	n.must(err)
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		_, err := f.Own(dir)
		n.must(err)
	}
	n.must(f.Install(n.ctx, debian(n.t, "nginx")))
	_, err = f.Run(n.ctx, "mkdir", "-p", "/var/lib/nginx", "/var/log/nginx")
	n.must(err)
	var key []byte
	f.cert, key = selfSigned(n.t, frontName)
	n.must(os.WriteFile(filepath.Join(f.etc, "nginx/picket.crt"), f.cert, 0o644))
	n.must(os.WriteFile(filepath.Join(f.etc, "nginx/picket.key"), key, 0o600))
	server, stream := snippets(n.t)
	stream = strings.ReplaceAll(stream, "listen 443;", "listen 8443;") // one host does both here
	const head = "user root;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log stderr info;\nload_module /usr/lib/nginx/modules/ngx_stream_module.so;\nevents {}\n"
	f.config(n, "picket.conf", head+"http {\naccess_log off;\n"+strings.ReplaceAll(server, "127.0.0.1:8443", coordinator)+"}\n"+strings.ReplaceAll(stream, "127.0.0.1:8443", coordinator))
	const portal = "access_log off; default_type text/html; server { listen 443 ssl; ssl_certificate /etc/nginx/picket.crt; ssl_certificate_key /etc/nginx/picket.key; ssl_protocols TLSv1.3;"
	f.config(n, "portal.conf", head+"http {\n"+portal+" return 200 '<html><title>Welcome to our guest network</title></html>'; }\n}\n")
	return f
}

func (f *front) config(n *network, name, text string) {
	n.must(os.WriteFile(filepath.Join(f.etc, "nginx", name), []byte(text), 0o644))
}

// start starts nginx with a file, ending the one that ran.
func (f *front) start(n *network, file string) {
	n.t.Helper()
	if f.nginx != nil {
		_ = f.nginx.Stop(5 * time.Second) // its status is that of a signal
	}
	before := 0
	if f.nginx != nil {
		before = len(f.nginx.Output())
	}
	var err error
	f.nginx, err = f.Start("nginx", "nginx", "-g", "daemon off;", "-c", "/etc/nginx/"+file)
	n.must(err)
	ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
	defer cancel()
	n.must(f.nginx.WaitFor(ctx, "nginx serving", func(out string) bool { return strings.Contains(out[before:], "start worker process ") }))
}

// trusting gives a host an /etc that knows the front's name and trusts its certificate.
func (f *front) trusting(n *network, h *lab.Host) *lab.Host {
	n.t.Helper()
	etc, err := h.OwnEtc(map[string]string{"hosts": "127.0.0.1 localhost\n" + f.IP.String() + " " + frontName + "\n", "nsswitch.conf": "hosts: files\n"})
	n.must(err)
	n.must(os.MkdirAll(filepath.Join(etc, "ssl/certs"), 0o755))
	n.must(os.WriteFile(filepath.Join(etc, "ssl/certs/ca-certificates.crt"), f.cert, 0o644))
	return h
}

// joinAt starts a node that joins by a join string of the test's.
func (n *network) joinAt(h *lab.Host, join, tag string) *lab.Node {
	n.t.Helper()
	node, err := h.StartNode(n.ctx, "--port-mapping=off", "--dns=off")
	n.must(err)
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", tag)
	n.must(err)
	_, err = node.CLI(n.ctx, "up", "--coordinator", join, "--auth-key", key, "--hostname", h.Name)
	n.must(err)
	n.nodes[h.Name] = node
	return node
}

// TestBehindNginx has Debian's nginx stand before coordinator and relay as docs/relays.md says, once ending TLS and once passing TCP on. Nodes that
// get no UDP out talk through the relay; what nginx does to them they say in words, and come back from by themselves.
func TestBehindNginx(t *testing.T) {
	debian(t, "nginx")
	w, ctx := world(t, false)
	n := &network{World: w, t: t, ctx: ctx, people: map[string]*lab.Person{}, nodes: map[string]*lab.Node{}}
	var err error
	n.policy, err = lab.NewPolicyRepo(ctx, filepath.Join(t.TempDir(), "policy"))
	n.must(err)
	n.commit(reachPolicy)
	host := n.host("coordinator")
	f := newFront(n, net.JoinHostPort(host.IP.String(), "8443"))
	n.coordinator, err = host.StartCoordinator(ctx, "--policy-repo", n.policy.Dir, "--url", "https://"+frontName, "--trusted-proxy", f.IP.String())
	n.must(err)
	f.start(n, "picket.conf")

	_, fingerprint, _ := strings.Cut(n.coordinator.Join, "#")
	lan, router, err := n.NAT(53, lab.NATConfig{})
	n.must(err)
	n.must(router.Block(ctx, noUDP))
	h, err := lan.Behind("left", 2)
	n.must(err)
	left := n.joinAt(f.trusting(n, h), "https://"+frontName+"#"+fingerprint, "tag:left")
	right := n.joinAt(f.trusting(n, n.host("right")), "https://"+frontName+":8443#"+fingerprint, "tag:right")
	_, err = right.Host.Serve(ctx, "tcp", "0.0.0.0:7000")
	n.must(err)
	t.Logf("through nginx and relay after %v", n.relayed(left, "right", 20*time.Second))
	flow, err := left.Dial(ctx, "tcp", n.address(right, false)+":7000")
	n.must(err)
	// It is restarted: everything goes on by itself.
	f.start(n, "picket.conf")
	n.until("the connection goes on", 40*time.Second, func() bool { return flow.Alive(200 * time.Millisecond) })
	n.connected(left, right)

	// Something on the way answers all with a page, as guest networks do.
	f.start(n, "portal.conf")
	n.says(left, "a web page", "status")
	n.says(left, "a web page", "netcheck")
	stranger, err := f.trusting(n, n.host("stranger")).StartNode(ctx, "--dns=off")
	n.must(err)
	_, err = stranger.CLI(ctx, "up", "--coordinator", "https://"+frontName+"#"+fingerprint)
	if err == nil || !strings.Contains(err.Error(), "a web page") {
		t.Errorf("picket up says: %v", err)
	}
	n.freeze(f, true) // it takes connections, and never answers
	_, err = stranger.CLI(ctx, "up", "--coordinator", "https://"+frontName+"#"+fingerprint)
	n.freeze(f, false)
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("picket up says: %v", err)
	}
	f.start(n, "picket.conf")
	n.until("the connection goes on", 60*time.Second, func() bool { return flow.Alive(200 * time.Millisecond) })
	n.connected(left, right)
}

// freeze stops nginx without ending it, or lets it go on.
func (n *network) freeze(f *front, stop bool) {
	n.t.Helper()
	_, err := f.Run(n.ctx, "sh", "-c", "kill -"+map[bool]string{true: "STOP", false: "CONT"}[stop]+" $(cat /run/nginx.pid) $(cat /proc/$(cat /run/nginx.pid)/task/*/children)")
	n.must(err)
}

// connected waits until the coordinator has the nodes' sessions.
func (n *network) connected(nodes ...*lab.Node) {
	n.t.Helper()
	for _, node := range nodes {
		n.until(node.Host.Name+" is connected", 40*time.Second, func() bool {
			s, err := node.Status(n.ctx)
			return err == nil && s.Connected
		})
	}
}

// says waits until a command of a node's says something, on either output.
func (n *network) says(node *lab.Node, want string, args ...string) {
	n.t.Helper()
	var out string
	for began := time.Now(); time.Since(began) < 40*time.Second; time.Sleep(100 * time.Millisecond) {
		var err error
		out, err = node.CLI(n.ctx, args...)
		if err != nil {
			out += err.Error()
		}
		if strings.Contains(out, want) {
			return
		}
	}
	n.t.Errorf("picket %s does not say %q:\n%s", strings.Join(args, " "), want, out)
}
