package statefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func testNode() Node {
	return Node{
		Device: key.NewDevice(), Tunnel: key.NewTunnel(), Probe: key.NewProbe(), Serial: 3, Certificate: []byte{1, 2, 3},
		URL: "https://c.example:8443", Coordinator: key.NewCoordinator().Public(), Network: "net1", Node: "n1", WantUp: true,
	}
}

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// diff compares whole values, private halves included.
func diff(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmp.AllowUnexported(key.DevicePrivate{}, key.TunnelPrivate{}, key.ProbePrivate{}))
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "state")
	d := open(t, path)
	if _, ok, err := d.Node(); ok || err != nil {
		t.Fatalf("a new directory has a node: %v, %v", ok, err)
	}
	n := testNode()
	p := Peers{Known: map[acl.NodeID]key.DevicePublic{"p1": key.NewDevice().Public()}}
	m := Map{Network: "net1", Node: "n1", OffsetMillis: -1500, Hints: []protocol.Hint{{Node: "p1", Online: true}},
		Signed: protocol.Map{Header: []byte(`{"a":1}`), Signature: []byte{9}, Put: []protocol.Entry{{ID: "self", Data: []byte("{}")}}}}
	seen := Serials{Seen: []Seen{{Node: "p1", Device: FingerprintOf(p.Known["p1"]), Serial: 1<<64 - 1, Until: 1_800_000_000}}}
	if err := errors.Join(d.SaveNode(n), d.SavePeers(p), d.SaveMap(m), d.SaveSerials(seen)); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = open(t, path)
	gotN, okN, err1 := d.Node()
	gotP, err2 := d.Peers()
	gotM, okM, err3 := d.Map()
	gotS, err4 := d.Serials()
	if err := errors.Join(err1, err2, err3, err4); err != nil || !okN || !okM {
		t.Fatal(okN, okM, err)
	}
	if s := diff(n, gotN) + diff(p, gotP) + diff(m, gotM) + diff(seen, gotS); s != "" {
		t.Error(s)
	}
	for _, name := range []string{nodeName, peersName, mapName, serialsName, lockName} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", name, info.Mode(), err)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, want 0700", info.Mode())
	}
	if err := d.RemoveMap(); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := d.Map(); ok || err != nil {
		t.Errorf("the map outlived RemoveMap: %v, %v", ok, err)
	}
}

func TestPreviousVersionIsKept(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "state"))
	n := testNode()
	for serial := uint64(1); serial <= 3; serial++ {
		n.Serial = serial
		if err := d.SaveNode(n); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(d.path, nodeName)
	if err := os.Rename(path+".prev", path); err != nil {
		t.Fatal(err)
	}
	if got, _, err := d.Node(); err != nil || got.Serial != 2 {
		t.Errorf("the previous version has serial %d (%v), want 2", got.Serial, err)
	}
	entries, _ := os.ReadDir(d.path)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") || strings.HasSuffix(e.Name(), ".link") {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// accessRefusals are about who can reach a file, not about what is in it: the previous version is no help there.
var accessRefusals = []string{"is a symbolic link", "not a regular file", "belongs to another user", "open to other users"}

// TestRefuses spoils the file in each way; every one is refused with the remedy and left as it is.
func TestRefuses(t *testing.T) {
	replace := func(old, new string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			text, _ := os.ReadFile(path)
			if !bytes.Contains(text, []byte(old)) {
				t.Fatalf("no %q in the file", old)
			}
			os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(new), 1), 0o600)
		}
	}
	content := func(text string) func(*testing.T, string) {
		return func(_ *testing.T, path string) { os.WriteFile(path, []byte(text), 0o600) }
	}
	for _, test := range []struct {
		outcome string
		spoil   func(t *testing.T, path string)
		want    string
	}{
		{"empty", content(""), "is empty"},
		{"truncated", func(_ *testing.T, path string) { os.Truncate(path, 200) }, "truncated"},
		{"zero bytes after a crash", content(strings.Repeat("\x00", 500)), "truncated, damaged"},
		{"another program's JSON", content(`{"PrivateNodeKey":"x"}`), "is no picket node file"},
		{"another file of ours", replace("picket node", "picket peers"), "is no picket node file"},
		{"not JSON", content("[Interface]\nPrivateKey = x\n"), "no file of picket's"},
		{"newer form", replace(`"version":1`, `"version":2,"new":true`), "newer picket (form 2"},
		{"no version", replace(`"version":1`, `"version":0`), "does not say its version"},
		{"unknown member in the envelope", replace(`"version":1`, `"version":1,"x":0`), "does not know"},
		{"one digit of a key flipped", func(t *testing.T, path string) {
			text, _ := os.ReadFile(path)
			i := bytes.Index(text, []byte("device-private:")) + 30
			text[i] ^= 1
			os.WriteFile(path, text, 0o600)
		}, "checksum"},
		{"duplicate member", replace(`"version":1`, `"version":1,"version":1`), "damaged"},
		{"readable by the group", func(_ *testing.T, path string) { os.Chmod(path, 0o640) }, "open to other users"},
		{"writable by all", func(_ *testing.T, path string) { os.Chmod(path, 0o602) }, "open to other users"},
		{"symbolic link", func(_ *testing.T, path string) {
			os.Rename(path, path+".real")
			os.Symlink(path+".real", path)
		}, "is a symbolic link"},
		{"directory", func(_ *testing.T, path string) { os.Remove(path); os.Mkdir(path, 0o700) }, "not a regular file"},
		{"lost, with its previous version there", func(_ *testing.T, path string) { os.Remove(path) }, "is missing although"},
		{"somebody else's", func(t *testing.T, path string) {
			if os.Getuid() != 0 {
				t.Skip("giving a file away needs root")
			}
			os.Chown(path, 65534, 65534)
		}, "belongs to another user"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			d := open(t, filepath.Join(t.TempDir(), "state"))
			n := testNode()
			if err := errors.Join(d.SaveNode(n), d.SaveNode(n)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.path, nodeName)
			test.spoil(t, path)
			before, _ := os.ReadFile(path)
			got, ok, err := d.Node()
			var refusal *Error
			if ok || !errors.As(err, &refusal) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, %v; want an *Error with %q", ok, err, test.want)
			}
			if !got.Device.IsZero() {
				t.Error("a refused file's key was handed out")
			}
			if contentRefused := !slices.Contains(accessRefusals, test.want); contentRefused && !strings.Contains(err.Error(), ".prev") {
				t.Errorf("%q does not name the .prev file", err)
			}
			if private, _ := n.Device.MarshalText(); strings.Contains(err.Error(), string(private)) {
				t.Error("the error holds a private key")
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the refused file was changed")
			}
		})
	}
}

func TestUnknownMemberInBody(t *testing.T) {
	type future struct {
		Node
		Ceiling string `json:"ceiling"` // a restriction this build would drop silently when it writes the file again
	}
	d := open(t, filepath.Join(t.TempDir(), "state"))
	if err := d.write(nodeName, "node", future{Node: testNode(), Ceiling: "22"}); err != nil {
		t.Fatal(err)
	}
	if n, ok, err := d.Node(); ok || err == nil || !n.Device.IsZero() {
		t.Error("a member this build does not know was ignored")
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, test := range []struct {
		outcome string
		prepare func(t *testing.T, path string)
		want    string
	}{
		{"open to the group", func(_ *testing.T, path string) { os.Mkdir(path, 0o700); os.Chmod(path, 0o750) }, "lets other users in"},
		{"a file", func(_ *testing.T, path string) { os.WriteFile(path, nil, 0o600) }, "not a directory"},
		{"a symbolic link", func(t *testing.T, path string) { os.Symlink(t.TempDir(), path) }, "not a directory"},
		{"in use", func(t *testing.T, path string) { open(t, path) }, "held by another picket agent (process "},
		{"somebody else's", func(t *testing.T, path string) {
			if os.Getuid() != 0 {
				t.Skip("giving a directory away needs root")
			}
			os.Mkdir(path, 0o700)
			os.Chown(path, 65534, 65534)
		}, "belongs to another user"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			test.prepare(t, path)
			d, err := Open(path)
			if err == nil {
				d.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestLockEndsWithClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	open(t, path)
}

// TestSerialsThatCannotBeRead come from the version before, with the error, and can be written anew.
func TestSerialsThatCannotBeRead(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "state"))
	version := func(serial uint64) Serials { return Serials{Seen: []Seen{{Node: "p1", Serial: serial}}} }
	if err := errors.Join(d.SaveSerials(version(1)), d.SaveSerials(version(2))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.path, serialsName)
	for _, spoil := range []func() error{
		func() error { return os.WriteFile(path, []byte("{"), 0o600) },
		func() error { return os.Remove(path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Serials(); err == nil || diff(got, version(1)) != "" {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if err := os.WriteFile(path+".prev", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Serials(); err == nil || len(got.Seen) != 0 {
		t.Errorf("of two damaged files: %v, %v", got, err)
	}
	if err := d.SaveSerials(version(3)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Serials(); err != nil || diff(got, version(3)) != "" {
		t.Errorf("written anew: %v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, body := range []any{testNode(), Peers{}, Map{}} {
		text, _ := encode("node", body)
		f.Add(text)
	}
	f.Add([]byte(`{"format":"picket node","version":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var n Node
		if decode(text, "node", &n) == "" {
			again, err := encode("node", n)
			if err != nil {
				t.Fatal(err)
			}
			var n2 Node
			if problem := decode(again, "node", &n2); problem != "" || diff(n, n2) != "" {
				t.Errorf("%s: %s", problem, diff(n, n2))
			}
		}
	})
}

func TestFlowsAreReadOnce(t *testing.T) {
	d, err := Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, ok, err := d.TakeFlows(); ok || err != nil {
		t.Fatalf("of an empty directory: %v, %v", ok, err)
	}
	want := Flows{Boot: "x", Millis: 7, Saved: []byte{1, 2, 3}}
	if err := d.SaveFlows(want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := d.TakeFlows(); !ok || err != nil || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if _, ok, err := d.TakeFlows(); ok || err != nil {
		t.Errorf("the second time: %v, %v", ok, err)
	}
	if err := d.SaveFlows(Flows{Saved: make([]byte, maxFile)}); err == nil {
		t.Error("more than a file may hold was written")
	}
	if err := os.WriteFile(filepath.Join(d.Path(), flowsName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := d.TakeFlows(); ok || err == nil {
		t.Errorf("a damaged file: %v, %v", ok, err)
	}
	if _, _, err := d.TakeFlows(); err != nil {
		t.Errorf("it stands in the way for ever: %v", err)
	}
}
