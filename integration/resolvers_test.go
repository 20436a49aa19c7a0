//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// patient is how long a change may take to show on a host whose resolver is another program's: the agent looks at it every five seconds.
const patient = 20 * time.Second

// publicName stands for publicAddress at the lab's name server.
const publicName, publicAddress = "www.example.org", "198.51.100.7"

// resolverCase is a host with a resolver set up as Debian's packages do it.
type resolverCase struct {
	name     string
	packages []string // unpacked below the folder PICKET_DEBIAN
	conf     string   // what /etc/resolv.conf says; %s is the lab's name server
	link     string   // where it leads to, instead
	files    map[string]string
	mode     string // as `picket dns status` names it
	// start starts the host's programs; nil for none.
	start func(n *network, s *setUp)
	// edit is what another program does to the host's settings while the agent runs; nil for nothing.
	edit func(n *network, s *setUp)
	// trouble is what status tells of, in words, where nothing can be changed; public names go on.
	trouble string
}

// setUp is a host on which a case runs.
type setUp struct {
	*lab.Host
	etc      string
	names    string       // address of the lab's name server
	resolved *lab.Process // systemd-resolved, where the case has it
	node     *lab.Node
}

func (s *setUp) file(name string) string { return filepath.Join(s.etc, name) }

// conf is what programs read there: kind, mode, target and text.
func (s *setUp) conf(n *network) string {
	out, _ := s.Run(n.ctx, "sh", "-c", `stat -c '%F %a %U' /etc/resolv.conf; readlink /etc/resolv.conf; grep -v '^#' /etc/resolv.conf`)
	return out
}

// run starts a program of the host that goes on.
func (s *setUp) run(n *network, name string, args ...string) *lab.Process {
	n.t.Helper()
	p, err := s.Start(name, args...)
	n.must(err)
	return p
}

// means waits until a host resolves a name as it should.
func (n *network) means(s *setUp, name, want string) {
	n.t.Helper()
	var got string
	for began := time.Now(); time.Since(began) < patient; time.Sleep(50 * time.Millisecond) {
		out, _ := s.Run(n.ctx, "getent", "ahostsv4", name)
		if got, _, _ = strings.Cut(out, " "); got == want {
			return
		}
	}
	dns := ""
	if s.node != nil {
		dns, _ = s.node.CLI(n.ctx, "dns", "status")
	}
	n.t.Fatalf("%s stands for %q on %s, want %q\n%s\n%s", name, got, s.Name, want, s.conf(n), dns)
}

const users = `root:x:0:0:root:/root:/bin/sh
messagebus:x:101:101::/nonexistent:/usr/sbin/nologin
systemd-resolve:x:102:102::/:/usr/sbin/nologin
dnsmasq:x:103:65534::/:/usr/sbin/nologin
unbound:x:104:104::/:/usr/sbin/nologin
nobody:x:65534:65534::/:/usr/sbin/nologin
`

const groups = `root:x:0:
messagebus:x:101:
systemd-resolve:x:102:
unbound:x:104:
netdev:x:105:
nogroup:x:65534:
`

// debian is the folder of a package that integration/debian.sh unpacked.
func debian(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(os.Getenv("PICKET_DEBIAN"), name, "root")
	if _, err := os.Stat(dir); os.Getenv("PICKET_DEBIAN") == "" || err != nil {
		t.Skipf("needs Debian's %s: integration/debian.sh FOLDER, then PICKET_DEBIAN=FOLDER", name)
	}
	return dir
}

// prepare makes the case's host.
func (c resolverCase) prepare(n *network, name, server string) *setUp {
	n.t.Helper()
	s := &setUp{Host: n.host(name), names: server}
	var err error
	s.etc, err = s.OwnEtc(map[string]string{"passwd": users, "group": groups, "nsswitch.conf": "hosts: files dns\n", "machine-id": "0123456789abcdef0123456789abcdef\n", "hosts": "127.0.0.1 localhost\n"})
	n.must(err)
	for _, dir := range []string{"/run", "/var/lib"} {
		_, err := s.Own(dir)
		n.must(err)
	}
	s.Mount("-t", "sysfs", "-o", "ro", "sysfs", "/sys")
	for _, p := range c.packages {
		n.must(s.Install(n.ctx, debian(n.t, p)))
	}
	for file, text := range c.files {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(file, ".nmconnection") {
			mode = 0o600 // NetworkManager reads no other
		}
		n.must(os.MkdirAll(filepath.Dir(s.file(file)), 0o755))
		n.must(os.WriteFile(s.file(file), []byte(strings.ReplaceAll(text, "%s", server)), mode))
	}
	if c.link != "" {
		_ = os.Remove(s.file("resolv.conf")) // a package may bring one
		n.must(os.Symlink(c.link, s.file("resolv.conf")))
	} else if c.conf != "" {
		n.must(os.WriteFile(s.file("resolv.conf"), []byte(strings.ReplaceAll(c.conf, "%s", server)), 0o644))
	}
	if c.start != nil {
		c.start(n, s)
	}
	return s
}

type dnsStatus struct {
	Mode, Why, Trouble string
}

func (s *setUp) status(n *network) (d dnsStatus) {
	n.t.Helper()
	out, _ := s.node.CLI(n.ctx, "dns", "status", "--json") // its status says no where there is trouble
	n.must(json.Unmarshal([]byte(out), &d))
	return d
}

// check has a host's programs resolve names through up, down, a kill and another program's edit.
func (c resolverCase) check(n *network, s *setUp, db string) {
	t := n.t
	if c.conf != "" || c.link != "" {
		n.means(s, publicName, publicAddress)
	}
	before := s.conf(n)
	var err error
	s.node, err = s.StartNode(n.ctx)
	n.must(err)
	n.admit(s.node, s.Name, "tag:left")
	if c.trouble != "" {
		n.until("dns status tells the trouble", patient, func() bool { return s.status(n).Trouble != "" })
		if d := s.status(n); !strings.Contains(d.Trouble, c.trouble) {
			t.Errorf("%+v", d)
		}
		n.means(s, publicName, publicAddress)
		if now := s.conf(n); now != before {
			t.Errorf("changed:\n%s", now)
		}
		return
	}
	all := func() {
		t.Helper()
		n.means(s, "db.picket.internal", db)
		n.means(s, "db", db)
		if c.conf != "" || c.link != "" {
			n.means(s, publicName, publicAddress)
		}
	}
	all()
	if d := s.status(n); d.Mode != c.mode || d.Trouble != "" {
		t.Errorf("%+v, want mode %s", d, c.mode)
	}
	down := func() {
		t.Helper()
		_, err := s.node.CLI(n.ctx, "down")
		n.must(err)
		n.until("what was before is back", patient, func() bool { return s.conf(n) == before })
		if c.conf != "" || c.link != "" {
			n.means(s, publicName, publicAddress)
		}
		n.means(s, "db.picket.internal", "")
	}
	if s.resolved != nil && c.mode == "systemd-resolved" { // as an update of it does
		s.resolved.Kill()
		s.startResolved(n)
		all()
	}
	down()
	up := func() {
		t.Helper()
		_, err = s.node.CLI(n.ctx, "up")
		n.must(err)
	}
	up()
	all()
	s.node.Kill()
	n.must(s.node.Start(n.ctx))
	all()
	down()
	if c.edit == nil {
		return
	}
	up()
	all()
	c.edit(n, s)
	edited := s.conf(n)
	n.until("dns status tells of the other's edit", patient, func() bool { return strings.Contains(s.status(n).Trouble, "something else") })
	n.means(s, publicName, publicAddress)
	_, err = s.node.CLI(n.ctx, "down")
	n.must(err)
	n.must(s.node.Stop(10 * time.Second))
	if now := s.conf(n); c.mode == "file" && now != edited { // what was told of our interface goes with it
		t.Errorf("another program's settings were changed by picket down:\n%s\nwas\n%s", now, edited)
	}
}

// TestResolvers runs on hosts with each way in which Debian's packages resolve names, the real programs started.
func TestResolvers(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	db := n.address(n.server("db", "tag:right"), false)
	names := n.host("names")
	_, err := names.ServeNames(n.ctx, names.IP.String()+":53", publicName+". 60 IN A "+publicAddress)
	n.must(err)
	t.Run("hosts", func(t *testing.T) { // so that the network outlives them
		for i, c := range resolverCases() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				m := *n
				m.t, m.nodes = t, maps.Clone(n.nodes)
				c.check(&m, c.prepare(&m, fmt.Sprintf("h%d", i), names.IP.String()), db)
			})
		}
	})
}

func resolverCases() []resolverCase {
	dnsmasq := func(args ...string) func(*network, *setUp) {
		return func(n *network, s *setUp) {
			s.run(n, "dnsmasq", append([]string{"dnsmasq", "--keep-in-foreground", "--pid-file="}, args...)...)
		}
	}
	resolved := func(n *network, s *setUp) {
		_, err := s.StartBus(n.ctx)
		n.must(err)
		s.startResolved(n)
	}
	return []resolverCase{
		{name: "plain file", conf: "nameserver %s\noptions timeout:2\n", mode: "file", edit: byHand},
		{name: "symlink", link: "resolv.conf.d/site", files: map[string]string{"resolv.conf.d/site": "nameserver %s\n"}, mode: "file"},
		{name: "no resolv.conf", mode: "file"},
		{name: "etc is read-only", conf: "nameserver %s\n", mode: "file", trouble: "read-only file system",
			start: func(_ *network, s *setUp) { s.Mount("-o", "remount,bind,ro", "/etc") }},
		{name: "immutable", conf: "nameserver %s\n", mode: "file", trouble: "operation not permitted", start: immutable},
		{name: "dnsmasq at 127.0.0.1", packages: []string{"dnsmasq-base"}, conf: "nameserver 127.0.0.1\n", mode: "file",
			files: map[string]string{"resolv.dnsmasq": "nameserver %s\n"},
			start: dnsmasq("--listen-address=127.0.0.1", "--bind-interfaces", "--resolv-file=/etc/resolv.dnsmasq")},
		{name: "dnsmasq at every address", packages: []string{"dnsmasq-base"}, conf: "nameserver 127.0.0.1\n", mode: "file",
			files: map[string]string{"resolv.dnsmasq": "nameserver %s\n"},
			start: dnsmasq("--local-service", "--resolv-file=/etc/resolv.dnsmasq")},
		{name: "dnsmasq that reads resolv.conf", packages: []string{"dnsmasq-base"}, conf: "nameserver 127.0.0.1\nnameserver %s\n", mode: "file",
			start: dnsmasq("--bind-dynamic", "--local-service")},
		{name: "unbound", packages: []string{"unbound"}, conf: "nameserver 127.0.0.1\n", mode: "file",
			files: map[string]string{"unbound/lab.conf": "server:\n  do-daemonize: no\n  use-syslog: no\n  chroot: \"\"\n  directory: /run\n  pidfile: \"\"\n" +
				"  module-config: iterator\nforward-zone:\n  name: .\n  forward-addr: %s\n"},
			start: func(n *network, s *setUp) { s.run(n, "unbound", "unbound", "-d", "-p", "-c", "/etc/unbound/lab.conf") }},
		{name: "systemd-resolved", packages: []string{"systemd-resolved"}, link: "../run/systemd/resolve/stub-resolv.conf", mode: "systemd-resolved",
			files: map[string]string{"systemd/resolved.conf.d/lab.conf": resolvedConf}, start: resolved,
			edit: func(n *network, s *setUp) {
				_, err := s.Run(n.ctx, "resolvectl", "dns", s.node.Interface(), s.names)
				n.must(err)
			}},
		{name: "systemd-resolved without its stub", packages: []string{"systemd-resolved"}, link: "../run/systemd/resolve/resolv.conf", mode: "file",
			files: map[string]string{"systemd/resolved.conf.d/lab.conf": resolvedConf}, start: resolved},
		{name: "systemd-resolved beside a file", packages: []string{"systemd-resolved"}, conf: "nameserver %s\n", mode: "file", start: resolved},
		{name: "NetworkManager", packages: []string{"network-manager"}, link: "../run/NetworkManager/resolv.conf", mode: "networkmanager",
			files: map[string]string{"NetworkManager/conf.d/lab.conf": "[main]\ndns=default\nrc-manager=symlink\n" + nmConf}, start: networkManager,
			edit: func(n *network, s *setUp) {
				n.sh(s, `busctl set-property org.freedesktop.NetworkManager /org/freedesktop/NetworkManager org.freedesktop.NetworkManager GlobalDnsConfiguration 'a{sv}' 0`)
			}},
		{name: "NetworkManager with systemd-resolved", packages: []string{"network-manager", "systemd-resolved"}, link: "../run/systemd/resolve/stub-resolv.conf", mode: "systemd-resolved",
			files: map[string]string{"NetworkManager/conf.d/lab.conf": "[main]\ndns=systemd-resolved\n" + nmConf},
			start: func(n *network, s *setUp) {
				_, err := s.StartBus(n.ctx)
				n.must(err)
				s.startResolved(n)
				s.networkManager(n)
			}},
		{name: "resolvconf", packages: []string{"resolvconf"}, link: "../run/resolvconf/resolv.conf", mode: "resolvconf",
			start: func(n *network, s *setUp) {
				n.sh(s, `mkdir -p /run/resolvconf/interface && resolvconf --enable-updates && echo nameserver `+s.names+` | resolvconf -a eth0.dhclient`)
			}},
		{name: "openresolv", packages: []string{"openresolv"}, conf: "# Generated by resolvconf\n", mode: "resolvconf",
			start: func(n *network, s *setUp) {
				n.sh(s, `echo nameserver `+s.names+` | resolvconf -a eth0.dhclient`)
			}},
	}
}

const nmConf = "plugins=keyfile\n[logging]\nlevel=INFO\n[keyfile]\nunmanaged-devices=interface-name:pk-*\n"

func networkManager(n *network, s *setUp) {
	_, err := s.StartBus(n.ctx)
	n.must(err)
	s.networkManager(n)
}

// networkManager starts NetworkManager, which has the host's interface by a connection in a file.
func (s *setUp) networkManager(n *network) {
	n.t.Helper()
	dir := s.file("NetworkManager/system-connections")
	n.must(os.MkdirAll(dir, 0o700))
	n.must(os.WriteFile(filepath.Join(dir, "eth0.nmconnection"), fmt.Appendf(nil, "[connection]\nid=eth0\nuuid=7c1d0f9e-1111-4222-8333-944455566677\ntype=ethernet\ninterface-name=eth0\n"+
		"[ipv4]\nmethod=manual\naddress1=%s/24\ndns=%s;\n[ipv6]\nmethod=ignore\n", s.IP, s.names), 0o600))
	s.run(n, "nm", "NetworkManager", "--debug")
	n.until("NetworkManager has the interface", patient, func() bool {
		_, err := s.Run(n.ctx, "nmcli", "--wait", "10", "connection", "up", "eth0")
		return err == nil
	})
}

const resolvedConf = "[Resolve]\nDNS=%s\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n"

// startResolved starts systemd-resolved as its unit does, and waits until it is on the bus.
func (s *setUp) startResolved(n *network) {
	n.t.Helper()
	n.sh(s, "mkdir -p /run/systemd/resolve && chown systemd-resolve: /run/systemd/resolve")
	s.resolved = s.run(n, "resolved", "/usr/lib/systemd/systemd-resolved")
	n.until("systemd-resolved runs", patient, func() bool {
		_, err := s.Run(n.ctx, "resolvectl", "status")
		return err == nil
	})
}

// sh runs a line of shell on the host.
func (n *network) sh(s *setUp, line string) {
	n.t.Helper()
	_, err := s.Run(n.ctx, "sh", "-c", line)
	n.must(err)
}

// byHand is somebody who edits /etc/resolv.conf.
func byHand(n *network, s *setUp) {
	n.must(os.Remove(s.file("resolv.conf")))
	n.must(os.WriteFile(s.file("resolv.conf"), fmt.Appendf(nil, "# by hand\nnameserver %s\n", s.names), 0o644))
}

// immutable has nobody change /etc/resolv.conf, as chattr +i does.
func immutable(n *network, s *setUp) {
	if out, err := exec.Command("chattr", "+i", s.file("resolv.conf")).CombinedOutput(); err != nil {
		n.t.Skipf("files cannot be made immutable here: %v %s", err, out)
	}
	n.t.Cleanup(func() { _ = exec.Command("chattr", "-i", s.file("resolv.conf")).Run() })
}
