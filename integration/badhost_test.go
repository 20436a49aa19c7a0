//go:build linux

package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/protocol"
	"picket.internal/integration/lab"
)

// smallDisk mounts a file system of that size at dir, with mode 0700; it is gone with the test.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill takes all that is left of the disk that holds dir but room bytes; the function returned gives it back.
func fill(t *testing.T, dir string, room int64) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, ".new-filler") // a name that does not count as content of a coordinator's directory
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Truncate(info.Size() - room)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// TestCoordinatorDiskFull fills the coordinator's disk before its first start and while it serves: nothing is half made, what is there goes on,
// revocation works, and all is well when there is room again.
func TestCoordinatorDiskFull(t *testing.T) {
	world, ctx := world(t, true)
	n := &network{World: world, t: t, ctx: ctx, people: map[string]*lab.Person{}, nodes: map[string]*lab.Node{}}
	var err error
	n.policy, err = lab.NewPolicyRepo(ctx, filepath.Join(t.TempDir(), "policy"))
	n.must(err)
	n.commit(rootlessPolicy)
	disk := filepath.Join(n.host("coordinator").Dir, "coordinator")
	smallDisk(t, disk, "3m")

	for _, room := range []int64{0, 8 << 10, 20 << 10, 64 << 10, 150 << 10} { // each stops the first start at another point
		t.Run(fmt.Sprintf("first start with %d bytes", room), func(t *testing.T) {
			empty := fill(t, disk, room)
			_, err = n.host("coordinator").Run(n.within(10*time.Second), filepath.Join(programs, "picket-coordinator"), "serve", "--dir", disk, "--listen", "127.0.0.1:0", "--url", "https://127.0.0.1:1")
			says(t, err, 1, "the disk holding "+disk+" is full: make room there")
			empty()
		})
	}
	n.coordinator, err = n.host("coordinator").StartCoordinator(ctx, "--policy-repo", n.policy.Dir)
	n.must(err)

	w := &working{network: n, alice: n.laptop("alice"), db: n.server("db", "tag:db")}
	_, err = w.db.Host.Serve(ctx, "tcp", "127.0.0.1:25432")
	n.must(err)
	w.flow, err = w.alice.Dial(ctx, "tcp", net.JoinHostPort(n.address(w.db, false), "25432"))
	n.must(err)
	key := n.authKey()
	late, err := n.host("late").StartNode(ctx)
	n.must(err)

	empty := fill(t, disk, 0)
	for range 1000 { // the write-ahead log has some room of its own
		if _, err = n.coordinator.CLI(ctx, "keys", "create", "--tag", "tag:web"); err != nil {
			break
		}
	}
	room := []string{"the disk holding " + disk + " is full: make room there"}
	says(t, err, 1, room...)
	keys := n.operate("keys", "list")
	nodes := n.list()
	_, err = n.coordinator.CLI(ctx, "nodes", "rename", "db", "database")
	says(t, err, 1, room...)
	_, err = n.coordinator.CLI(ctx, "users", "add", "carol@example.com")
	says(t, err, 1, room...)
	_, err = late.CLI(ctx, "up", "--coordinator", n.coordinator.Join, "--auth-key", key)
	says(t, err, 1, room...)
	n.joinedNothing(late)
	in := n.head()
	n.commit(strings.Replace(rootlessPolicy, "25432\"", "25433\"", 1))
	_, err = n.coordinator.CLI(ctx, "policy", "reload")
	says(t, err, 1, room...)
	w.undisturbed(t, in)
	if fmt.Sprint(n.list()) != fmt.Sprint(nodes) || n.operate("keys", "list") != keys {
		t.Error("something was changed after all")
	}

	began := time.Now()
	_, err = n.coordinator.CLI(ctx, "nodes", "quarantine", "db", "--wait")
	says(t, err, 1, "not on disk", "full")
	after, err := w.flow.WaitCut(n.within(5*time.Second), began)
	if err != nil || after > 2*time.Second {
		t.Errorf("a quarantine that cannot be written cut the flow after %v: %v", after, err)
	}
	empty()
	n.eventually("the quarantine is on disk", func() error {
		if out := n.operate("audit", "list"); !strings.Contains(out, "node.quarantine") {
			return errors.New("the audit log does not have it")
		}
		return nil
	})
	n.operate("nodes", "quarantine", "db", "--off", "--wait")
	_, err = late.CLI(ctx, "up", "--coordinator", n.coordinator.Join, "--auth-key", key)
	n.must(err)
	n.operate("policy", "reload", "--wait")
}

// TestNodeDiskFull fills the disk of a node before its first start, before it joins, and while it is at work.
func TestNodeDiskFull(t *testing.T) {
	n := newNetwork(t, true, rootlessPolicy)
	disk := filepath.Join(n.host("db").Dir, "state")
	smallDisk(t, disk, "256k")
	empty := fill(t, disk, 0)
	_, err := n.host("db").Run(n.within(5*time.Second), filepath.Join(programs, "picket"), "run", "--tun=userspace", "--state", disk, "--socket", filepath.Join(n.host("db").Dir, "picket.sock"))
	says(t, err, 1, disk, "the disk is full: free some space")
	empty()

	node, err := n.host("db").StartNode(n.ctx)
	n.must(err)
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:db")
	n.must(err)
	before := n.identity(node)
	empty = fill(t, disk, 0)
	_, err = node.CLI(n.ctx, "up", "--coordinator", n.coordinator.Join, "--auth-key", key, "--hostname", "db")
	says(t, err, 1, disk, "cannot be written because the disk is full: free some space")
	if got := n.identity(node); got["device"] != before["device"] {
		t.Error("the device key is lost")
	}
	empty()
	_, err = node.CLI(n.ctx, "up", "--coordinator", n.coordinator.Join, "--auth-key", key, "--hostname", "db") // the very same: the key was spent on this device
	n.must(err)
	if got := n.list(); len(got) != 1 {
		t.Errorf("nodes: %v", got)
	}
	id := n.identity(node)["node"]
	empty = fill(t, disk, 0)
	n.operate("nodes", "rename", "db", "database", "--wait") // a map that cannot be kept comes into force
	n.eventually("status tells of the disk", func() error {
		out, err := node.CLI(n.ctx, "status")
		if err == nil && !strings.Contains(out, "the disk is full") {
			err = errors.New(out)
		}
		return err
	})
	empty()
	node.Kill()
	n.must(node.Start(n.ctx))
	if got := n.identity(node)["node"]; got != id || got == "" {
		t.Errorf("the node came back as %v, was %v", got, id)
	}
}

// TestPortsInUse starts programs on ports that others have.
func TestPortsInUse(t *testing.T) {
	n := newNetwork(t, true, rootlessPolicy)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	n.must(err)
	defer l.Close()
	udp, err := net.ListenPacket("udp", ":0")
	n.must(err)
	defer udp.Close()
	h := n.host("late")
	at := filepath.Join(h.Dir, "made")
	serve := func(dir, listen string) error {
		_, err := h.Run(n.within(5*time.Second), filepath.Join(programs, "picket-coordinator"), "serve", "--dir", dir, "--listen", listen, "--url", "https://127.0.0.1")
		return err
	}
	says(t, serve(at, l.Addr().String()), 1, "port in use: another program listens on "+l.Addr().String(), "choose another with --listen")
	says(t, serve(at, "198.51.100.7:8443"), 1, "is no address of this machine", "--listen")
	before := contents(t, n.coordinator.Dir())
	says(t, serve(n.coordinator.Dir(), "127.0.0.1:0"), 1, "another coordinator runs in "+n.coordinator.Dir(), "--dir")
	_, err = h.Run(n.within(5*time.Second), filepath.Join(programs, "picket"), "run", "--tun=userspace", "--state", at, "--socket", filepath.Join(h.Dir, "s"),
		"--port", fmt.Sprint(udp.LocalAddr().(*net.UDPAddr).Port))
	says(t, err, 1, "the UDP port ", "is taken by another program", "--port")
	if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a directory was made by a program that could not start")
	}
	unchanged(t, n.coordinator.Dir(), before)
	n.operate("nodes", "list") // still served
}

// asNobody runs a program as uid 65534, in a folder that uid may write to.
func asNobody(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Pdeathsig: syscall.SIGKILL}
	return exited(cmd)
}

// exited runs a command to its end, and describes a bad one as a lab does.
func exited(cmd *exec.Cmd) error {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, "/"
	err := cmd.Run()
	if err != nil && cmd.ProcessState != nil {
		return &lab.ExitError{Args: cmd.Args, Err: err, Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	}
	return err
}

// TestWithoutPrivilege runs the programs as nobody, and as root on a machine without /dev/net/tun.
func TestWithoutPrivilege(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("running programs as another user needs root; without it every other rootless test is this one")
	}
	n := newNetwork(t, true, rootlessPolicy)
	rooted, err := n.host("laptop").StartNode(n.ctx)
	n.must(err)
	dir, err := os.MkdirTemp("", "nobody") // not t.TempDir, whose parents are closed to others
	n.must(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	n.must(errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "own"), 0o700), os.Chown(filepath.Join(dir, "own"), 65534, 65534)))
	for _, name := range []string{"picket", "picket-coordinator"} {
		text, err := os.ReadFile(filepath.Join(programs, name))
		n.must(err)
		n.must(os.WriteFile(filepath.Join(dir, name), text, 0o755))
	}
	picket, coordinator, own := filepath.Join(dir, "picket"), filepath.Join(dir, "picket-coordinator"), filepath.Join(dir, "own")
	state := []string{"--state", filepath.Join(own, "state"), "--socket", filepath.Join(own, "sock")}
	hidden := append([]string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$@"`, "sh", picket, "run"}, state...)
	for _, c := range []struct {
		name  string
		err   error
		words []string
	}{
		{"agent", asNobody(n.within(5*time.Second), append([]string{picket, "run"}, state...)...), []string{"needs root (CAP_NET_ADMIN)", "sudo", "--tun=userspace"}},
		{"agent in root's directory", asNobody(n.within(5*time.Second), picket, "run", "--tun=userspace", "--state", filepath.Join(n.host("laptop").Dir, "state"), "--socket", filepath.Join(own, "sock")), []string{"permission denied", "--state"}},
		{"install", asNobody(n.within(5*time.Second), picket, "install"), []string{"needs root: use sudo"}},
		{"up at root's agent", asNobody(n.within(5*time.Second), picket, "up", "--socket", filepath.Join(n.host("laptop").Dir, "picket.sock")), []string{"sudo"}},
		{"coordinator in a system directory", asNobody(n.within(5*time.Second), coordinator, "serve", "--dir", "/var/lib/picket-of-nobody", "--listen", "127.0.0.1:0", "--url", "https://127.0.0.1"), []string{"cannot make /var/lib/picket-of-nobody: permission denied", "--dir"}},
		{"operator at root's coordinator", asNobody(n.within(5*time.Second), coordinator, "nodes", "list", "--dir", n.coordinator.Dir()), []string{"no permission to use", "run this as root"}},
		{"no /dev/net/tun", exited(exec.CommandContext(n.within(5*time.Second), hidden[0], hidden[1:]...)), []string{"this host has no /dev/net/tun", "modprobe tun", "--tun=userspace"}},
	} {
		t.Run(c.name, func(t *testing.T) { says(t, c.err, 1, c.words...) })
	}
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil && strings.TrimSpace(string(text)) == "1024" {
		err := asNobody(n.within(5*time.Second), coordinator, "serve", "--dir", filepath.Join(own, "c"), "--listen", "127.0.0.1:443", "--url", "https://127.0.0.1")
		says(t, err, 1, "no permission to listen on 127.0.0.1:443", "net_bind_service")
	}
	if left, err := os.ReadDir(own); err != nil || len(left) != 0 {
		t.Errorf("refused starts left %v (%v)", left, err)
	}
	n.joinedNothing(rooted)
}

// TestAnotherVPN puts an interface with the overlay's addresses into the node's machine: the node says whose they are, takes nothing away from
// it, and works once that one is gone.
func TestAnotherVPN(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip is not installed (apt-get install iproute2)")
	}
	db := n.server("db", "tag:db")
	h := n.host("laptop")
	ip := func(args ...string) string {
		t.Helper()
		out, err := h.Run(n.ctx, append([]string{"ip"}, args...)...)
		n.must(err)
		return out
	}
	for _, c := range []struct{ name, add string }{{"interface", "100.100.1.2/10"}, {"interface with one address", "100.127.255.254/32"}} {
		t.Run(c.name, func(t *testing.T) {
			n.t = t
			ip("tuntap", "add", "dev", "othervpn", "mode", "tun") // as other VPNs have
			ip("link", "set", "othervpn", "up")
			ip("addr", "add", c.add, "dev", "othervpn")
			node, err := h.StartNode(n.ctx)
			n.must(err)
			before := ip("-o", "addr", "show", "othervpn") + ip("route", "show", "table", "all")
			key := n.authKey()
			_, err = node.CLI(n.within(10*time.Second), "up", "--coordinator", n.coordinator.Join, "--auth-key", key)
			says(t, err, 1, `the interface "othervpn" already holds 100.`, "the overlay range 100.64.0.0/10", "another VPN?")
			out, err := node.CLI(n.ctx, "status")
			if err == nil || !strings.Contains(out, "othervpn") {
				t.Errorf("status says (%v):\n%s", err, out)
			}
			if after := ip("-o", "addr", "show", "othervpn") + ip("route", "show", "table", "all"); after != before {
				t.Errorf("the host's network was changed:\n%s\nwas\n%s", after, before)
			}
			ip("link", "del", "othervpn")
			if _, err = node.CLI(n.within(10*time.Second), "up"); err != nil {
				t.Errorf("once the other is gone: %v", err)
			}
			_, err = node.CLI(n.ctx, "logout")
			n.must(err)
			n.must(node.Stop(5 * time.Second))
			n.must(os.RemoveAll(filepath.Join(h.Dir, "state")))
		})
	}
	n.t = t
	n.address(db, false)
}

// wrongClock is the coordinator's own key and certificate behind the real protocol, with a clock that is off. It knows two requests: those that
// come before a node believes anything.
type wrongClock struct {
	httpapi.API
	dir *keydir.Dir
	off time.Duration
}

func (c wrongClock) Info(client []byte) (protocol.Info, error) {
	return protocol.SignInfo(protocol.InfoBody{
		Version: protocol.Version, Network: c.dir.Network, Coordinator: c.dir.Key.Public(), Client: client, Nonce: make([]byte, 32), Time: time.Now().Add(c.off),
	}, c.dir.Key)
}

func (c wrongClock) Challenge(h protocol.Hello) (protocol.Challenge, error) {
	ch := protocol.Challenge{Network: c.dir.Network, Coordinator: c.dir.Key.Public(), Nonce: make([]byte, 32), Time: time.Now().Add(c.off)}
	ch.Sign(h, c.dir.Key)
	return ch, nil
}

// TestClockAnHourOff has nodes meet a coordinator whose signed time is an hour from theirs. The wrong clock is simulated on the coordinator's
// side, since what a node compares is only the difference, and no namespace covers the time of day: a server of this process answers with the
// stopped coordinator's key.
func TestClockAnHourOff(t *testing.T) {
	for _, c := range []struct {
		name string
		off  time.Duration
		says string
	}{{"node behind", time.Hour, "clock is 1h0m0s behind the coordinator's"}, {"node ahead", -time.Hour, "clock is 1h0m0s ahead of the coordinator's"}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorking(t)
			stranger, err := w.host("stranger").StartNode(w.ctx)
			w.must(err)
			w.must(w.coordinator.Stop(5 * time.Second))
			stop := w.serveWrongClock(c.off)
			_, err = stranger.CLI(w.ctx, "up", "--coordinator", w.coordinator.Join)
			says(t, err, 1, c.says, "set the clock")
			w.joinedNothing(stranger)

			_, _ = w.alice.CLI(w.ctx, "up") // a person hurries it
			w.eventually("the node says so", func() error {
				out, _ := w.alice.CLI(w.ctx, "status")
				if !strings.Contains(out, c.says) {
					return errors.New(out)
				}
				return nil
			})
			_, err = w.alice.CLI(w.ctx, "up")
			says(t, err, 1, c.says)
			if _, err := w.flow.WaitCut(w.within(5*time.Second), time.Now()); err != nil {
				t.Error("the tunnel goes on under a clock that nobody can trust")
			}
			stop()
			w.must(w.coordinator.Start(w.ctx))
			w.eventually("all is well with the right time", func() error {
				_, err := w.alice.CLI(w.ctx, "up")
				return err
			})
			w.flow, err = w.alice.Dial(w.ctx, "tcp", net.JoinHostPort(w.address(w.db, false), "25432"))
			w.must(err)
		})
	}
}

// serveWrongClock takes the stopped coordinator's place.
func (w *working) serveWrongClock(off time.Duration) (stop func()) {
	w.t.Helper()
	dir, err := keydir.Open(w.coordinator.Dir())
	w.must(err)
	certificates, err := dir.Certificates([]string{"127.0.0.1"})
	w.must(err)
	h, err := httpapi.New(httpapi.Config{API: wrongClock{dir: dir, off: off}})
	w.must(err)
	l, err := net.Listen("tcp", strings.TrimPrefix(w.coordinator.URL, "https://"))
	w.must(err)
	srv := &http.Server{Handler: h, TLSConfig: &tls.Config{GetCertificate: certificates.Get, NextProtos: []string{"http/1.1"}}}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	return func() {
		w.must(srv.Close())
		<-done
		w.must(dir.Close())
	}
}

// TestDamagedNodeState cuts each file of a node's directory short: the agent refuses to start, changes nothing, and following the sentence
// brings the same node back.
func TestDamagedNodeState(t *testing.T) {
	n := newNetwork(t, true, rootlessPolicy)
	n.server("db", "tag:db")
	alice := n.laptop("alice")
	state := filepath.Join(alice.Host.Dir, "state")
	n.operate("nodes", "rename", "db", "database", "--wait") // a second version of the map
	id := n.identity(alice)["node"]
	n.must(alice.Stop(5 * time.Second))
	for _, name := range []string{"node.json", "peers.json", "map.json"} {
		t.Run(name, func(t *testing.T) {
			n.t = t
			path := filepath.Join(state, name)
			whole, err := os.ReadFile(path)
			n.must(err)
			n.must(os.WriteFile(path, whole[:len(whole)/2], 0o600))
			before := contents(t, state)
			_, err = alice.Host.Run(n.within(5*time.Second), alice.Cmd.Args...)
			remedy := "restore it from a backup"
			if _, prev := before["/"+name+".prev"]; prev {
				remedy = "the version before it is " + path + ".prev"
			}
			says(t, err, 1, path, "is truncated, damaged or no file of picket's", remedy)
			unchanged(t, state, before)
			if remedy[0] == 't' {
				n.must(os.Rename(path+".prev", path))
			} else {
				n.must(os.WriteFile(path, whole, 0o600))
			}
			n.must(alice.Start(n.ctx))
			if _, err := alice.CLI(n.ctx, "up"); err != nil || n.identity(alice)["node"] != id {
				t.Errorf("after the remedy: %v", err)
			}
			n.must(alice.Stop(5 * time.Second))
		})
	}
}

// TestDamagedCoordinator damages what a coordinator keeps, and gives it what is not its own: refused, unchanged, and fine once put right.
func TestDamagedCoordinator(t *testing.T) {
	n := newNetwork(t, true, rootlessPolicy)
	n.server("db", "tag:db")
	other, err := n.host("other").StartCoordinator(n.ctx)
	n.must(err)
	n.must(other.Stop(5 * time.Second))
	n.must(n.coordinator.Stop(5 * time.Second))
	n.inDatabase("PRAGMA wal_checkpoint(TRUNCATE)") // so that the database is one file, which can be swapped for another
	dir := n.coordinator.Dir()
	path := func(name string) string { return filepath.Join(dir, name) }
	halve := func(name string) func() {
		return func() {
			info, err := os.Stat(path(name))
			n.must(err)
			n.must(os.Truncate(path(name), info.Size()/2))
		}
	}
	foreign := func(name string) func() {
		return func() {
			text, err := os.ReadFile(filepath.Join(other.Dir(), name))
			n.must(err)
			n.must(os.WriteFile(path(name), text, 0o600))
		}
	}
	for _, c := range []struct {
		name   string
		damage func()
		words  []string
	}{
		{"truncated keys", halve("coordinator.json"), []string{path("coordinator.json") + " is damaged", "restore it from a backup"}},
		{"keys gone", func() { n.must(os.Remove(path("coordinator.json"))) }, []string{"no coordinator.json", "name an empty directory", "restore coordinator.json from a backup"}},
		{"keys open to others", func() { n.must(os.Chmod(path("coordinator.json"), 0o644)) }, []string{"others may read it", "chmod 600"}},
		{"keys of another network", foreign("coordinator.json"), []string{"not this network's database", "put back what belongs together"}},
		{"truncated database", halve("picket.db"), []string{path("picket.db"), "the database is damaged", "restore it from a backup"}},
		{"empty database", func() { n.must(os.Truncate(path("picket.db"), 0)) }, []string{"it holds nothing", "restore it from a backup"}},
		{"database gone", func() { n.must(os.Remove(path("picket.db"))) }, []string{"picket.db is gone", "restore the database from a backup"}},
		{"no database at all", func() { n.must(os.WriteFile(path("picket.db"), []byte(strings.Repeat("text ", 2000)), 0o600)) }, []string{"the database is damaged", "restore it"}},
		{"database of another network", foreign("picket.db"), []string{"not this network's database", "put back what belongs together"}},
		{"database of another program", func() { n.inDatabase("PRAGMA application_id = 42") }, []string{"belongs to another program", "choose another directory"}},
		{"database of a newer version", func() { n.inDatabase("INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)") }, []string{"from a newer version of picket-coordinator", "its schema is 999", "start the newer version"}},
		{"directory open to others", func() { n.must(os.Chmod(dir, 0o755)) }, []string{"others may enter", "chmod 700"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.t = t
			whole := filepath.Join(t.TempDir(), "whole")
			n.must(os.CopyFS(whole, os.DirFS(dir)))
			c.damage()
			before := contents(t, dir)
			_, err := n.coordinator.Host.Run(n.within(10*time.Second), n.coordinator.Cmd.Args...)
			says(t, err, 1, c.words...)
			unchanged(t, dir, before)
			n.must(os.RemoveAll(dir))
			n.must(os.CopyFS(dir, os.DirFS(whole)))
			n.must(os.Chmod(dir, 0o700))
			for name := range contents(t, dir) {
				n.must(os.Chmod(filepath.Join(dir, name), 0o600))
			}
		})
	}
	n.t = t
	n.must(n.coordinator.Start(n.ctx))
	if nodes := n.list(); len(nodes) != 1 || nodes[0].Name != "db" {
		t.Errorf("nodes: %v", nodes)
	}
}
