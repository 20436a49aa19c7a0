package dns

import (
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inside is the part of TestResolvconfOfDebian that runs where the package is: eth0's resolver is known, and there is nothing of ours.
func inside(t *testing.T) {
	h := OpenHost(HostConfig{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}).(*linuxHost)
	run := func(stdin string, args ...string) {
		c := exec.Command("/sbin/resolvconf", args...)
		c.Stdin = strings.NewReader(stdin)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	run("", "--enable-updates")
	run("nameserver 192.0.2.1\nsearch example.org\n", "-a", "eth0.dhclient")
	before := string(readSome(resolvPath))
	if st := h.Apply(wanted); st.Trouble != "" || st.Mode != "resolvconf" {
		t.Fatalf("%+v\n%s", st, before)
	}
	got := parseResolvConf(readSome(resolvPath))
	if len(got.nameservers) != 1 || got.nameservers[0].Addr() != Listen.Addr() || got.search[0] != "corp.internal" {
		t.Errorf("%+v\n%s", got, readSome(resolvPath))
	}
	if u := h.Upstreams(); len(u) != 1 || u[0].Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("asked otherwise: %v", u)
	}
	run("nameserver 192.0.2.2\n", "-a", "eth0.dhclient") // a lease is renewed
	if st := h.Apply(wanted); st.Trouble != "" {
		t.Errorf("%+v", st)
	}
	if err := OpenHost(h.HostConfig).Restore(); err != nil { // another agent: this one was killed
		t.Error(err)
	}
	if got := strings.ReplaceAll(string(readSome(resolvPath)), "192.0.2.2", "192.0.2.1"); !strings.Contains(got, "nameserver 192.0.2.1") || strings.Contains(got, "127.0.112.105") {
		t.Errorf("before:\n%safter:\n%s", before, got)
	}
}

// TestResolvconfOfDebian runs Debian's own program, unpacked from the package that PICKET_RESOLVCONF names, over this system's /usr.
func TestResolvconfOfDebian(t *testing.T) {
	if os.Getenv("PICKET_INSIDE") != "" {
		inside(t)
		return
	}
	pkg := os.Getenv("PICKET_RESOLVCONF")
	if pkg == "" {
		t.Skip("needs Debian's package: apt-get download resolvconf, then PICKET_RESOLVCONF=its file")
	}
	dir := t.TempDir()
	script := `set -e
dpkg-deb -x "$1" "$2/x"
mkdir "$2/usr" && cp -a "$2/x/sbin" "$2/x/lib" "$2/usr" && mount -t overlay overlay -o "lowerdir=$2/usr:/usr" /usr
mount -t tmpfs tmpfs /run && mkdir -p /run/resolvconf/interface
ln -s ../run/resolvconf/resolv.conf "$2/x/etc/resolv.conf" && mount --bind "$2/x/etc" /etc
exec "$0" -test.run='^TestResolvconfOfDebian$' -test.v`
	file, err := filepath.Abs(pkg)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("unshare", "--mount", "sh", "-c", script, os.Args[0], file, dir)
	c.Env = append(os.Environ(), "PICKET_INSIDE=1")
	out, err := c.CombinedOutput()
	if err != nil && (strings.Contains(string(out), "mount:") || strings.Contains(string(out), "unshare:")) {
		t.Skipf("needs to mount: %s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}
