package dns

import (
	"bufio"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// bus starts a private D-Bus and returns its address.
func bus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("needs dbus-daemon (apt-get install dbus-daemon)")
	}
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "conf")
	write(t, config, fmt.Sprintf(`<busconfig><type>session</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`, dir))
	c := exec.Command(program, "--config-file="+config, "--nofork", "--print-address")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// own connects to the bus under a name.
func own(t *testing.T, address, name string) *dbus.Conn {
	t.Helper()
	c, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if got, err := c.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || got != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%v %v", got, err)
	}
	return c
}

// fakeResolved is systemd-resolved as far as we speak to it: signatures are those of org.freedesktop.resolve1(5).
type fakeResolved struct {
	mu sync.Mutex
	linkSettings
	calls []string
	props *prop.Properties
}

// linkSettings are what it was told of a link.
type linkSettings struct {
	dns          []linkAddress
	domains      []linkDomain
	defaultRoute bool
}

func (f *fakeResolved) settings() linkSettings {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.linkSettings
}

func (f *fakeResolved) note(call string) *dbus.Error {
	f.calls = append(f.calls, call)
	return nil
}

func (f *fakeResolved) SetLinkDNS(link int32, a []linkAddress) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dns = a
	f.props.SetMust(resolvedName+".Link", "DNS", a)
	return f.note(fmt.Sprint("dns ", link))
}

func (f *fakeResolved) SetLinkDomains(_ int32, d []linkDomain) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.domains = d
	return f.note("domains")
}

func (f *fakeResolved) SetLinkDefaultRoute(_ int32, on bool) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.defaultRoute = on
	return f.note("route")
}

func (f *fakeResolved) SetLinkLLMNR(int32, string) *dbus.Error        { return nil }
func (f *fakeResolved) SetLinkMulticastDNS(int32, string) *dbus.Error { return nil }
func (f *fakeResolved) SetLinkDNSSEC(int32, string) *dbus.Error       { return nil }
func (f *fakeResolved) SetLinkDNSOverTLS(int32, string) *dbus.Error   { return nil }
func (f *fakeResolved) GetLink(int32) (dbus.ObjectPath, *dbus.Error) {
	return "/org/freedesktop/resolve1/link/_31", nil
}

func (f *fakeResolved) FlushCaches() *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.note("flush")
}

func (f *fakeResolved) RevertLink(link int32) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.linkSettings = linkSettings{}
	return f.note(fmt.Sprint("revert ", link))
}

func (f *fakeResolved) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	return out
}

func startResolved(t *testing.T, address string) (*fakeResolved, *dbus.Conn) {
	c := own(t, address, resolvedName)
	f := &fakeResolved{}
	var err error
	f.props, err = prop.Export(c, "/org/freedesktop/resolve1/link/_31", prop.Map{resolvedName + ".Link": {"DNS": {Value: []linkAddress{}, Emit: prop.EmitFalse}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Export(f, resolvedPath, resolvedName+".Manager"); err != nil {
		t.Fatal(err)
	}
	return f, c
}

func busHost(t *testing.T, address, resolv string) (*linuxHost, string) {
	dir := root(t, resolv)
	h := OpenHost(HostConfig{Root: dir, Bus: address, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}).(*linuxHost)
	return h, dir
}

func TestResolved(t *testing.T) {
	address := bus(t)
	f, conn := startResolved(t, address)
	h, dir := busHost(t, address, "# This is /run/systemd/resolve/stub-resolv.conf\nnameserver 127.0.0.53\n")
	before := trace(t, filepath.Join(dir, "etc"))
	st := h.Apply(wanted)
	if st.Mode != "systemd-resolved" || st.Trouble != "" {
		t.Fatalf("%+v", st)
	}
	if s := f.settings(); len(s.dns) != 1 || !slices.Equal(s.dns[0].Address, []byte{127, 0, 112, 105}) || s.dns[0].Family != 2 || s.defaultRoute {
		t.Errorf("%+v", s)
	}
	if want := []linkDomain{{"corp.internal", false}, {"64.100.in-addr.arpa", true}}; !slices.Equal(f.settings().domains, want) {
		t.Errorf("%v", f.settings().domains)
	}
	f.took()
	if st := h.Apply(wanted); st.Trouble != "" || len(f.took()) > 0 {
		t.Errorf("what is right already is set again: %+v", st)
	}
	all := wanted
	all.All = true
	st = h.Apply(all)
	if s := f.settings(); st.Trouble != "" || !s.defaultRoute || s.domains[len(s.domains)-1] != (linkDomain{".", true}) {
		t.Errorf("%+v %v", st, s)
	}
	f.props.SetMust(resolvedName+".Link", "DNS", []linkAddress{{2, []byte{192, 0, 2, 9}}})
	f.took()
	if st := h.Apply(all); !strings.Contains(st.Trouble, "something else") || len(f.took()) > 0 {
		t.Errorf("what others set is not left alone: %+v", st)
	}
	if err := h.Restore(); err != nil || !slices.Contains(f.took(), "revert 1") {
		t.Errorf("%v", err)
	}
	if d := trace(t, filepath.Join(dir, "etc")); d != before {
		t.Error("files were changed")
	}

	h.Apply(wanted)
	if _, err := conn.ReleaseName(resolvedName); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	f, _ = startResolved(t, address) // it was started anew, and has forgotten
	if st := h.Apply(wanted); st.Trouble != "" || len(f.settings().dns) != 1 {
		t.Errorf("%+v %v", st, f.settings())
	}
}

// TestPastResolved: where programs ask those whom systemd-resolved asks, the file is ours to write; where it cannot be written that is said.
func TestPastResolved(t *testing.T) {
	address := bus(t)
	f, _ := startResolved(t, address)
	h, dir := busHost(t, address, "")
	uplinks := filepath.Join(dir, "run/systemd/resolve/resolv.conf")
	if err := os.MkdirAll(filepath.Dir(uplinks), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, uplinks, "nameserver 192.0.2.1\n")
	if err := os.Symlink("../run/systemd/resolve/resolv.conf", filepath.Join(dir, resolvPath)); err != nil {
		t.Fatal(err)
	}
	before := trace(t, filepath.Join(dir, "etc"))
	if st := h.Apply(wanted); st.Mode != "file" || st.Trouble != "" || len(f.took()) > 0 {
		t.Errorf("%+v", st)
	}
	if u := h.Upstreams(); len(u) != 1 || u[0].Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("asked otherwise: %v", u)
	}
	if err := h.Restore(); err != nil || trace(t, filepath.Join(dir, "etc")) != before {
		t.Errorf("%v\n%s", err, trace(t, filepath.Join(dir, "etc")))
	}
	etc := filepath.Join(dir, "etc")
	if err := syscall.Mount(etc, etc, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	defer syscall.Unmount(etc, syscall.MNT_DETACH)
	if err := syscall.Mount("", etc, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	st := h.Apply(wanted)
	if st.Mode != "systemd-resolved" || !strings.Contains(st.Trouble, "stub-resolv.conf") || len(f.settings().dns) != 1 {
		t.Errorf("%+v %v", st, f.settings())
	}
}

// fakeNM is NetworkManager as far as we speak to it: the properties of its main object. (prop's would join a map that is set with what was there.)
type fakeNM struct {
	mu     sync.Mutex
	global map[string]dbus.Variant
}

func (f *fakeNM) Get(_, name string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == "Devices" {
		return dbus.MakeVariant([]dbus.ObjectPath{"/device/1", "/device/2"}), nil
	}
	return dbus.MakeVariant(f.global), nil
}

func (f *fakeNM) Set(_, _ string, v dbus.Variant) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.global = v.Value().(map[string]dbus.Variant)
	return nil
}

func startNM(t *testing.T, address string) *fakeNM {
	c := own(t, address, nmName)
	export := func(path dbus.ObjectPath, m prop.Map) {
		if _, err := prop.Export(c, path, m); err != nil {
			t.Fatal(err)
		}
	}
	export("/ip4/1", prop.Map{nmName + ".IP4Config": {"NameserverData": {Value: []map[string]dbus.Variant{{"address": dbus.MakeVariant("192.0.2.1")}}}}})
	export("/ip6/1", prop.Map{nmName + ".IP6Config": {"Nameservers": {Value: [][]byte{netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("fe80::1").AsSlice()}}}})
	export("/device/1", prop.Map{nmName + ".Device": {"Ip4Config": {Value: dbus.ObjectPath("/ip4/1")}, "Ip6Config": {Value: dbus.ObjectPath("/ip6/1")}}})
	export("/device/2", prop.Map{nmName + ".Device": {"Ip4Config": {Value: dbus.ObjectPath("/")}, "Ip6Config": {Value: dbus.ObjectPath("/")}}})
	f := &fakeNM{global: map[string]dbus.Variant{}}
	if err := c.Export(f, nmPath, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNetworkManager(t *testing.T) {
	address := bus(t)
	f := startNM(t, address)
	const conf = "# Generated by NetworkManager\nnameserver 192.0.2.1\n"
	h, dir := busHost(t, address, conf)
	global := func() map[string]dbus.Variant {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.global
	}
	for range 2 {
		if st := h.Apply(wanted); st.Mode != "networkmanager" || st.Trouble != "" || !oursInNM(global()) {
			t.Fatalf("%+v %v", st, global())
		}
	}
	if u := h.Upstreams(); len(u) != 2 || u[0].Addr() != netip.MustParseAddr("192.0.2.1") || u[1].Addr() != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("asked otherwise: %v", u)
	}
	killed, _ := busHost(t, address, "")
	killed.Root = dir
	if err := killed.Restore(); err != nil || len(global()) > 0 {
		t.Errorf("an agent that was killed left %v: %v", global(), err)
	}
	if st := h.Apply(wanted); !strings.Contains(st.Trouble, "something else") || len(global()) > 0 {
		t.Errorf("what others did is not left alone: %+v %v", st, global())
	}
	theirs := map[string]dbus.Variant{"domains": dbus.MakeVariant(map[string]dbus.Variant{
		"*": dbus.MakeVariant(map[string]dbus.Variant{"servers": dbus.MakeVariant([]string{"192.0.2.9"})}),
	})}
	_ = f.Set(nmName, "GlobalDnsConfiguration", dbus.MakeVariant(theirs))
	if err := h.Restore(); err != nil {
		t.Error(err)
	}
	if st := h.Apply(wanted); st.Trouble == "" || fmt.Sprint(global()) != fmt.Sprint(theirs) {
		t.Errorf("the operator's own global resolvers are not left alone: %+v %v", st, global())
	}
	if err := h.Restore(); err != nil || fmt.Sprint(global()) != fmt.Sprint(theirs) {
		t.Errorf("%v %v", err, global())
	}
	if string(readSome(filepath.Join(dir, resolvPath))) != conf {
		t.Error("NetworkManager's file was changed")
	}
}
