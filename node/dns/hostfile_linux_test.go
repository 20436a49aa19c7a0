package dns

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var wanted = HostSettings{Interface: "lo", Server: Listen.Addr(), Match: []string{"corp.internal", "64.100.in-addr.arpa"}, Search: []string{"corp.internal"}}

// root is a folder that is a host's /, with what is given in /etc/resolv.conf.
func root(t *testing.T, resolv string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"etc", "run", "usr/sbin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if resolv != "" {
		write(t, filepath.Join(dir, resolvPath), resolv)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func openHost(t *testing.T, dir string) *linuxHost {
	return OpenHost(HostConfig{Root: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}).(*linuxHost)
}

// trace is all that can be told of a folder's files.
func trace(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		target, _ := os.Readlink(path)
		text, _ := os.ReadFile(path)
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d %d:%d %q %q\n", e.Name(), info.Mode(), st.Ino, st.Uid, st.Gid, target, text)
	}
	return b.String()
}

// TestFileIsPutBack: content, mode, owner and link are as they were, whether the agent was ended, killed, or killed and started again.
func TestFileIsPutBack(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, etc string){
		"a file": func(t *testing.T, etc string) {
			write(t, filepath.Join(etc, "resolv.conf"), "nameserver 192.0.2.1\nsearch example.org\n")
			if err := os.Chmod(filepath.Join(etc, "resolv.conf"), 0o640); err != nil {
				t.Fatal(err)
			}
		},
		"a link": func(t *testing.T, etc string) {
			write(t, filepath.Join(etc, "other"), "nameserver 192.0.2.1\n")
			if err := os.Symlink("other", filepath.Join(etc, "resolv.conf")); err != nil {
				t.Fatal(err)
			}
		},
		"a link to nothing": func(t *testing.T, etc string) {
			if err := os.Symlink("/nowhere/resolv.conf", filepath.Join(etc, "resolv.conf")); err != nil {
				t.Fatal(err)
			}
		},
		"nothing": func(*testing.T, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := root(t, "")
			etc := filepath.Join(dir, "etc")
			prepare(t, etc)
			before := trace(t, etc)
			for range 2 {
				h := openHost(t, dir)
				if st := h.Apply(wanted); st.Trouble != "" || st.Mode != "file" {
					t.Fatalf("%+v", st)
				}
				text := string(readSome(filepath.Join(etc, "resolv.conf")))
				if !strings.Contains(text, "nameserver 127.0.112.105\n") || !strings.Contains(text, "search corp.internal") {
					t.Fatal(text)
				}
				other := wanted
				other.Search = []string{"corp.internal", "example.com"}
				if st := h.Apply(other); st.Trouble != "" {
					t.Fatalf("%+v", st)
				}
				if strings.HasPrefix(name, "a ") && name != "a link to nothing" {
					if u := h.Upstreams(); len(u) != 1 || u[0] != netip.MustParseAddrPort("192.0.2.1:53") {
						t.Errorf("asked otherwise: %v", u)
					}
				}
				if err := openHost(t, dir).Restore(); err != nil { // another agent: this one was killed
					t.Fatal(err)
				}
				if d := trace(t, etc); d != before {
					t.Errorf("before:\n%safter:\n%s", before, d)
				}
			}
			if err := openHost(t, dir).Restore(); err != nil || trace(t, etc) != before {
				t.Errorf("putting it back twice: %v", err)
			}
		})
	}
}

// TestFileOfOthersStays: what somebody wrote while we were there, or dead, is theirs.
func TestFileOfOthersStays(t *testing.T) {
	const theirs = "nameserver 192.0.2.9\n"
	for _, killed := range []bool{false, true} {
		dir := root(t, "nameserver 192.0.2.1\n")
		conf := filepath.Join(dir, resolvPath)
		h := openHost(t, dir)
		if st := h.Apply(wanted); st.Trouble != "" {
			t.Fatal(st)
		}
		write(t, conf, theirs)
		if killed {
			h = openHost(t, dir)
		} else {
			for range 2 {
				if st := h.Apply(wanted); !strings.Contains(st.Trouble, "something else has changed") {
					t.Errorf("%+v", st)
				}
			}
			if u := h.Upstreams(); len(u) != 1 || u[0].Addr() != netip.MustParseAddr("192.0.2.9") {
				t.Errorf("asked otherwise: %v", u)
			}
		}
		if err := h.Restore(); err != nil {
			t.Error(err)
		}
		if text := string(readSome(conf)); text != theirs {
			t.Errorf("killed %v: %q", killed, text)
		}
		if st := h.Apply(wanted); st.Trouble != "" || !strings.Contains(string(readSome(conf)), "127.0.112.105") { // told anew
			t.Errorf("%+v", st)
		}
		if err := h.Restore(); err != nil || string(readSome(conf)) != theirs {
			t.Errorf("killed %v: %v", killed, err)
		}
	}
	dir := root(t, "nameserver 192.0.2.1\n")
	h := openHost(t, dir)
	h.Apply(wanted)
	conf := filepath.Join(dir, resolvPath)
	write(t, conf, string(readSome(conf))+"options rotate\n") // ours, and a line
	if err := openHost(t, dir).Restore(); err != nil || !strings.Contains(string(readSome(conf)), "rotate") {
		t.Errorf("a line that somebody added is gone: %v", err)
	}
}

// TestFileThatIsMounted: in containers /etc/resolv.conf is a mount of its own, and can only be written into.
func TestFileThatIsMounted(t *testing.T) {
	dir := root(t, "nameserver 192.0.2.1\n")
	conf := filepath.Join(dir, resolvPath)
	outside := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, outside, "nameserver 192.0.2.2\n")
	if err := syscall.Mount(outside, conf, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	defer syscall.Unmount(conf, 0)
	h := openHost(t, dir)
	if st := h.Apply(wanted); st.Trouble != "" || !strings.Contains(string(readSome(outside)), "127.0.112.105") {
		t.Fatalf("%+v", st)
	}
	if u := h.Upstreams(); len(u) != 1 || u[0].Addr() != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("asked otherwise: %v", u)
	}
	if err := openHost(t, dir).Restore(); err != nil || string(readSome(outside)) != "nameserver 192.0.2.2\n" {
		t.Errorf("%v: %q", err, readSome(outside))
	}
	if _, err := os.Lstat(filepath.Join(dir, beforePath)); err == nil {
		t.Error("something is left behind")
	}
}

// TestFileInTheUnit: /etc cannot be written but for this file, as our systemd unit has it. The link stays, and what it leads to comes back.
func TestFileInTheUnit(t *testing.T) {
	dir := root(t, "")
	etc, conf := filepath.Join(dir, "etc"), filepath.Join(dir, resolvPath)
	target, state := filepath.Join(dir, "run/resolv.conf"), filepath.Join(dir, "var/lib/picket")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, target, "nameserver 192.0.2.1\n")
	if err := os.Chmod(target, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../run/resolv.conf", conf); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(etc, etc, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	defer syscall.Unmount(etc, syscall.MNT_DETACH)
	if err := syscall.Mount("", etc, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	before := trace(t, etc) + trace(t, filepath.Join(dir, "run"))
	h := openHost(t, dir)
	if st := h.Apply(wanted); st.Trouble != "" || !strings.Contains(string(readSome(target)), "127.0.112.105") || !strings.Contains(st.Changed[0], keptPath) {
		t.Fatalf("%+v", st)
	}
	if u := h.Upstreams(); len(u) != 1 || u[0].Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("asked otherwise: %v", u)
	}
	if err := openHost(t, dir).Restore(); err != nil {
		t.Error(err)
	}
	if after := trace(t, etc) + trace(t, filepath.Join(dir, "run")); after != before || trace(t, state) != "" {
		t.Errorf("before:\n%safter:\n%s%s", before, after, trace(t, state))
	}
}

// TestFileThatCannotBeWritten is left as it is.
func TestFileThatCannotBeWritten(t *testing.T) {
	dir := root(t, "")
	if err := os.Mkdir(filepath.Join(dir, resolvPath), 0o755); err != nil {
		t.Fatal(err)
	}
	if st := openHost(t, dir).Apply(wanted); st.Trouble == "" || len(st.Changed) > 0 {
		t.Errorf("%+v", st)
	}
}

// TestNothingOfOthersIsWritten: what a file says goes into ours only as plain words.
func TestNothingOfOthersIsWritten(t *testing.T) {
	dir := root(t, "nameserver 192.0.2.1\nnameserver x\nsearch good.example bad\x1b[2J.example $(reboot) .\noptions edns0 bad\x07 timeout:1\nsortlist 1\n")
	if st := openHost(t, dir).Apply(wanted); st.Trouble != "" {
		t.Fatal(st)
	}
	text := string(readSome(filepath.Join(dir, resolvPath)))
	if !strings.Contains(text, "search corp.internal good.example\noptions edns0 timeout:1\n") || strings.ContainsAny(text, "\x1b\x07$") {
		t.Errorf("%q", text)
	}
}

// TestResolvconf plays resolvconf(8) by a program that keeps what it is told and writes the file from it, as Debian's does.
func TestResolvconf(t *testing.T) {
	const generated = "# Dynamic resolv.conf(5) file for glibc resolver(3) generated by resolvconf(8)\nnameserver 192.0.2.1\n"
	dir := root(t, "")
	records := filepath.Join(dir, "run/resolvconf/interface")
	if err := os.MkdirAll(records, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(records, "eth0.dhclient"), "nameserver 192.0.2.1\n")
	made := filepath.Join(dir, "run/resolvconf/resolv.conf")
	write(t, made, generated)
	if err := os.Symlink("../run/resolvconf/resolv.conf", filepath.Join(dir, resolvPath)); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "usr/sbin/resolvconf")
	write(t, program, fmt.Sprintf(`#!/bin/sh
set -e
case $1 in
-a) cat >%[1]s/"$2" ;;
-d) rm -f %[1]s/"$2" ;;
esac
{ echo "# generated by resolvconf(8)"; cat %[1]s/tun* %[1]s/eth* 2>/dev/null; } >%[2]s || true
`, records, made))
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	h := openHost(t, dir)
	if st := h.Apply(wanted); st.Trouble != "" || st.Mode != "resolvconf" {
		t.Fatalf("%+v", st)
	}
	if got := parseResolvConf(readSome(filepath.Join(dir, resolvPath))); got.nameservers[0].Addr() != Listen.Addr() || got.search[0] != "corp.internal" {
		t.Errorf("%+v", got)
	}
	if u := h.Upstreams(); len(u) != 1 || u[0].Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("asked otherwise: %v", u)
	}
	if err := openHost(t, dir).Restore(); err != nil { // another agent: this one was killed
		t.Fatal(err)
	}
	if got := parseResolvConf(readSome(filepath.Join(dir, resolvPath))); len(got.nameservers) != 1 || got.nameservers[0].Addr() == Listen.Addr() {
		t.Errorf("%+v", got)
	}
	write(t, program, "#!/bin/sh\necho it does not want to >&2\nexit 1\n")
	if st := openHost(t, dir).Apply(wanted); !strings.Contains(st.Trouble, "it does not want to") {
		t.Errorf("%+v", st)
	}
}

// TestChoice: nobody but who keeps the host's settings is told.
func TestChoice(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err == nil {
		t.Log("what is on a bus is chosen in TestResolved and TestNetworkManager")
	}
	for text, want := range map[string]string{
		"nameserver 192.0.2.1\n":                                        "file",
		"nameserver 127.0.0.53\n":                                       "file", // nobody on the bus
		"# Generated by NetworkManager\nnameserver 192.0.2.1\n":         "file",
		"# Generated by resolvconf\nnameserver 192.0.2.1\n":             "file", // there is no such program
		"# by a person, who has heard of nothing\nnameserver 192.0.2.1": "file",
	} {
		if _, name, _ := openHost(t, root(t, text)).choose(); name != want {
			t.Errorf("%q: %s", text, name)
		}
	}
}
