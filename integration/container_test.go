//go:build linux

package integration

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// container is a process as an engine starts it from the Dockerfile's image: a root of its own that nobody can write to, with the static programs and
// certificates and what an engine adds (/proc, /dev/null, /etc/resolv.conf), no shell, and one volume for the state.
type container struct {
	*lab.Host
	root, state string
	tun         bool     // it runs as root, with CAP_NET_ADMIN, CAP_NET_BIND_SERVICE and /dev/net/tun; else as 65532, with nothing
	image       []string // environment, from the Dockerfile
	env         []string
}

func newContainer(n *network, name string, tun bool) *container {
	n.t.Helper()
	c := &container{Host: n.host(name), tun: tun}
	c.root, c.state = filepath.Join(c.Dir, "root"), filepath.Join(c.Dir, "volume")
	for _, dir := range []string{"usr/local/bin", "etc/ssl/certs", "state", "tmp", "proc", "dev/net", "run/secrets"} {
		n.must(os.MkdirAll(filepath.Join(c.root, dir), 0o755))
	}
	n.must(os.Mkdir(c.state, 0o700))
	n.must(os.Chmod(c.state, 0o777|os.ModeSticky)) // as the image has it, and much as engines make empty volumes
	for _, file := range []string{"dev/null", "dev/net/tun", "etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt", "run/secrets/key"} {
		n.must(os.WriteFile(filepath.Join(c.root, file), nil, 0o644))
	}
	n.must(os.WriteFile(filepath.Join(c.Dir, "resolv.conf"), []byte("nameserver 192.0.2.250\n"), 0o644))
	if tun {
		n.must(os.Chown(c.state, 65532, 65532)) // of another user than the one in the container
	} else {
		n.must(os.Chmod(c.Dir, 0o711)) // so that the path to the root can be walked
		n.must(os.Chmod(filepath.Dir(c.Dir), 0o711))
	}
	dockerfile, err := os.ReadFile("../Dockerfile")
	n.must(err)
	_, env, found := strings.Cut(string(dockerfile), "\nENV PATH=/usr/local/bin ")
	if !found {
		n.t.Fatal("the Dockerfile sets no environment")
	}
	env, _, _ = strings.Cut(env, "\n")
	c.image = strings.Fields(env)
	program, err := os.ReadFile(filepath.Join(programs, "picket"))
	n.must(err)
	n.must(os.WriteFile(filepath.Join(c.root, "usr/local/bin/picket"), program, 0o755))
	return c
}

// words are a command line in the container.
func (c *container) words(args ...string) []string {
	const script = `set -e
root=$1 volume=$2 conf=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$volume" "$root/state"
mount --bind "$conf" "$root/etc/resolv.conf"
mount --bind /dev/null "$root/dev/null"
mount --bind /proc "$root/proc"
`
	caps, user := "-all,+sys_chroot,+setuid,+setgid", "65532:65532"
	more := ""
	if c.tun {
		caps, user = "-all,+sys_chroot,+net_admin,+net_bind_service", "0:0"
		more = "mount --bind /dev/net/tun \"$root/dev/net/tun\"\n"
	}
	run := `exec setpriv --no-new-privs --inh-caps=-all --bounding-set=` + caps + ` chroot`
	if !c.tun {
		run += ` --userspec=` + user
	}
	out := []string{"unshare", "--mount", "sh", "-c", script + more + run + ` "$root" "$@"`, "sh", c.root, c.state, filepath.Join(c.Dir, "resolv.conf")}
	return slices.Concat([]string{"env", "-i"}, c.image, []string{"PATH=" + os.Getenv("PATH") + ":/usr/local/bin"}, c.env, out, args)
}

// start starts `picket run` with further arguments.
func (c *container) start(n *network, args ...string) *lab.Process {
	n.t.Helper()
	p, err := c.Start("agent", c.words(append([]string{"picket", "run"}, args...)...)...)
	n.must(err)
	return p
}

// up waits until `picket status` in the container says that packets may pass, as a readiness probe does.
func (c *container) up(n *network, p *lab.Process) {
	n.t.Helper()
	began := time.Now()
	var err error
	for time.Since(began) < 30*time.Second {
		if _, err = c.Run(n.ctx, c.words("picket", "status")...); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	n.t.Fatalf("%s is not up: %v\n%s", c.Name, err, p.Output())
}

// fails waits for a process that must end with an error that says something.
func (n *network) fails(p *lab.Process, says string) {
	n.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		n.t.Errorf("it goes on:\n%s", p.Output())
		p.Kill()
	}
	if p.Cmd.ProcessState.ExitCode() != 1 || !strings.Contains(p.Output(), says) {
		n.t.Errorf("it ends with %v and does not say %q:\n%s", p.Cmd.ProcessState, says, p.Output())
	}
}

// TestContainer: one process that joins by itself, with nothing but what the image has, without a privilege.
func TestContainer(t *testing.T) {
	binary, err := elf.Open(filepath.Join(programs, "picket"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program is not static: it would not start in the image")
		}
	}
	n := newNetwork(t, false, reachPolicy)
	right := n.server("right", "tag:right")
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:left", "--reusable")
	n.must(err)
	c := newContainer(n, "rootless", false)
	rootless := []string{"--tun=userspace", "--socks5", "127.0.0.1:1080", "--port-mapping=off"}

	c.env = []string{"PICKET_JOIN=" + n.coordinator.Join}
	n.fails(c.start(n, rootless...), "there is no auth key to join by")
	c.env = append(c.env, "PICKET_AUTH_KEY=picket-key-"+strings.Repeat("A", 32))
	n.fails(c.start(n, rootless...), "joining: ")

	n.must(n.coordinator.Stop(5 * time.Second)) // the container is there first
	n.must(os.WriteFile(filepath.Join(c.root, "run/secrets/key"), []byte(key+"\n"), 0o444))
	c.env = []string{"PICKET_JOIN=" + n.coordinator.Join, "PICKET_AUTH_KEY_FILE=/run/secrets/key", "PICKET_HOSTNAME=app"}
	p := c.start(n, rootless...)
	n.must(p.WaitFor(n.ctx, "another try planned", func(out string) bool { return strings.Contains(out, "not joined yet") }))
	n.must(n.coordinator.Start(n.ctx))
	c.up(n, p)
	if out, err := c.Run(n.ctx, c.words("picket", "ping", "-c", "1", "right")...); err != nil {
		t.Errorf("%v %s", err, out)
	}
	n.seesOnly(right, "app")
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.Cmd.Process.Pid) + "/status")
	n.must(err)
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the test's container is none: no %q in\n%s", want, status)
		}
	}
	if err := os.WriteFile("/proc/"+strconv.Itoa(p.Cmd.Process.Pid)+"/root/usr/x", nil, 0o600); err == nil {
		t.Error("the test's root can be written to")
	}
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(p.Cmd.Process.Pid) + "/cmdline")
	n.must(err)
	if strings.Contains(p.Output(), key) || strings.Contains(string(cmdline), key) {
		t.Error("the auth key is in the log or on the command line")
	}

	// Restarted, it is who it was, and needs no key.
	p.Kill()
	n.must(os.WriteFile(filepath.Join(c.root, "run/secrets/key"), nil, 0o444))
	p = c.start(n, rootless...)
	c.up(n, p)
	n.must(p.Stop(10 * time.Second))

	// Whom an operator removed stays out, though the key is good.
	n.must(os.WriteFile(filepath.Join(c.root, "run/secrets/key"), []byte(key), 0o444))
	p = c.start(n, rootless...)
	c.up(n, p)
	n.operate("nodes", "remove", "app")
	n.until("it knows", 10*time.Second, func() bool {
		out, _ := c.Run(n.ctx, c.words("picket", "status")...)
		return strings.Contains(out, "removed")
	})
	p.Kill()
	n.fails(c.start(n, rootless...), "an operator removed this node")
	n.seesOnly(right)
}

// TestContainerWithInterface: with CAP_NET_ADMIN and /dev/net/tun, and nothing else, it makes an interface and serves names through the file that the
// engine mounts, which is put back.
func TestContainerWithInterface(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	right := n.server("right", "tag:right")
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:left")
	n.must(err)
	c := newContainer(n, "sidecar", true)
	c.env = []string{"PICKET_JOIN=" + n.coordinator.Join, "PICKET_AUTH_KEY=" + key}
	p := c.start(n, "--port-mapping=off")
	c.up(n, p)
	n.ping(&lab.Node{Host: c.Host}, n.address(right, false), true)
	conf := filepath.Join(c.Dir, "resolv.conf")
	says := func(want string) func() bool {
		return func() bool { text, err := os.ReadFile(conf); return err == nil && strings.Contains(string(text), want) }
	}
	n.until("names are asked for at the agent", 15*time.Second, says("nameserver 127.0.112.105"))
	if out, err := c.Run(n.ctx, c.words("picket", "dns", "status")...); err != nil || !strings.Contains(out, "/state/node/") {
		t.Errorf("%v\n%s", err, out)
	}
	n.must(p.Stop(10 * time.Second))
	if !says("nameserver 192.0.2.250")() {
		t.Error("the engine's resolv.conf is not back")
	}
	if left, err := c.Run(n.ctx, "ip", "-o", "link", "show"); err != nil || strings.Contains(left, "picket0") {
		t.Errorf("left behind: %v %s", err, left)
	}
}
