package statefile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"picket.internal/coordinator/protocol"
)

func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	d := open(t, filepath.Join(mount, "state"))
	m := Map{Network: "net1", Signed: protocol.Map{Put: []protocol.Entry{{ID: "self", Data: []byte("{}")}}}}
	if err := d.SaveMap(m); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.path, mapName)
	before, _ := os.ReadFile(path)
	m.Signed.Put[0].Data = bytes.Repeat([]byte("x"), 200<<10)
	err := d.SaveMap(m)
	if err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatalf("got %v, want a sentence about the full disk", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the old file was changed")
	}
	m.Signed.Put[0].Data = []byte("small again")
	if err := d.SaveMap(m); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
