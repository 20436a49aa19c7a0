package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// OwnEtc gives the host an /etc of its own, with the files given and no others, and returns the folder. Programs that are started from then
// on see it; without one, all hosts see that of this machine. Privileged worlds only.
func (h *Host) OwnEtc(files map[string]string) (string, error) {
	dir, err := h.Own("/etc")
	if err != nil {
		return "", err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	h.etc = dir
	return dir, nil
}

// Own gives the host an empty folder of its own in the place of one of this machine's, such as /run, and returns where it is. Programs that are
// started from then on see it. Privileged worlds only.
func (h *Host) Own(place string) (string, error) {
	dir := filepath.Join(h.Dir, strings.ReplaceAll(strings.Trim(place, "/"), "/", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	h.Mount("--bind", dir, place)
	return dir, nil
}

// Mount has programs that are started from then on see a mount, by arguments of mount(8). Privileged worlds only.
func (h *Host) Mount(args ...string) { h.mounts = append(h.mounts, args) }

// Install lays what was unpacked from Debian packages over the host's /usr, and puts what they have for /etc into its own, which OwnEtc has made.
func (h *Host) Install(ctx context.Context, root string) error {
	h.Mount("-t", "overlay", "overlay", "-o", "lowerdir="+filepath.Join(root, "usr")+":/usr", "/usr")
	from := filepath.Join(root, "etc")
	if _, err := os.Stat(from); err != nil {
		return nil // they have none
	}
	_, err := h.Run(ctx, "cp", "-a", from+"/.", h.etc)
	return err
}

// StartBus starts a D-Bus of the host's own in its own /run.
func (h *Host) StartBus(ctx context.Context) (*Process, error) {
	if _, err := h.Run(ctx, "mkdir", "-p", "/run/dbus"); err != nil {
		return nil, err
	}
	p, err := h.Start("bus", "dbus-daemon", "--system", "--nofork", "--nopidfile", "--print-address")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return p, p.WaitFor(ctx, "bus listening", func(out string) bool { return strings.Contains(out, "unix:") })
}

// seeing is args in a mount namespace where what is the host's own is in its place.
func (h *Host) seeing(args []string) []string {
	if len(h.mounts) == 0 {
		return args
	}
	script, words := "", []string{}
	for _, m := range h.mounts {
		script += fmt.Sprintf("mount%s && ", placeholders(len(words), len(m)))
		words = append(words, m...)
	}
	return append(append([]string{"unshare", "--mount", "sh", "-c", script + fmt.Sprintf("shift %d && exec \"$@\"", len(words)), "sh"}, words...), args...)
}

// placeholders are n words of a shell's arguments, after the first skipped ones.
func placeholders(skipped, n int) (out string) {
	for i := range n {
		out += fmt.Sprintf(" \"${%d}\"", skipped+i+1)
	}
	return out
}
