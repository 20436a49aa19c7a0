package lab

import (
	"os"
	"path/filepath"
)

// OwnEtc gives the host an /etc of its own, with the files given and no others, and returns the folder. Programs that are started from then
// on see it; without one, all hosts see that of this machine. Privileged worlds only.
func (h *Host) OwnEtc(files map[string]string) (string, error) {
	dir := filepath.Join(h.Dir, "etc")
	if err := os.MkdirAll(dir, 0o755); err != nil {
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

// seeing is args in a mount namespace where the host's own /etc is in its place.
func (h *Host) seeing(args []string) []string {
	if h.etc == "" {
		return args
	}
	return append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc && exec "$@"`, h.etc}, args...)
}
