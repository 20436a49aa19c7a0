package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"picket.internal/coordinator"
	"picket.internal/coordinator/sqlite"
)

// TestCreateOnFullDisk makes databases on disks too small for them by a little less each time. None is left half made: the content of a WAL that
// could not be folded into the file did not get the file's name, and what did was taken for damaged ever after.
func TestCreateOnFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	for room := 16 << 10; room <= 384<<10; room += 16 << 10 {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			t.Parallel() // each waits for goose, which tries thrice
			disk := t.TempDir()
			if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", room)); err != nil {
				t.Skipf("no tmpfs here: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
			path := filepath.Join(disk, "picket.db")
			s, err := sqlite.Open(t.Context(), path, "net-a")
			if err == nil {
				s.Close()
			}
			var refused *coordinator.Error
			if err != nil && (!errors.As(err, &refused) || !strings.Contains(err.Error(), "is full: make room there")) {
				t.Errorf("it says %v", err)
			}
			if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=4m"); err != nil {
				t.Fatal(err)
			}
			s, err = sqlite.Open(t.Context(), path, "net-a")
			if err != nil {
				t.Fatalf("with room: %v", err)
			}
			s.Close()
		})
	}
}
