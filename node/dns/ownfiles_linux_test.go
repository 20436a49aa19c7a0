package dns

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestOwnFiles starts this test again in namespaces of its own: in a network alone, the machine's /etc must stay as it is.
func TestOwnFiles(t *testing.T) {
	if os.Getenv("PICKET_OWN_FILES") != "" {
		t.Logf("own files: %v", ownFiles("/proc"))
		return
	}
	if !ownFiles("/proc") {
		t.Error("where everything is the machine's, so is the network")
	}
	for args, want := range map[string]string{"--net": "own files: false", "--net --mount": "own files: true", "--mount": "own files: true"} {
		c := exec.Command("unshare", append(strings.Fields(args), os.Args[0], "-test.run=^TestOwnFiles$", "-test.v")...)
		c.Env = append(os.Environ(), "PICKET_OWN_FILES=1")
		out, err := c.CombinedOutput()
		if err != nil && strings.Contains(string(out), "unshare failed") {
			t.Skipf("needs namespaces: %s", out)
		}
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %s:\n%s", args, err, want, out)
		}
	}
	if ownFiles(t.TempDir()) {
		t.Error("what cannot be told is taken for a yes")
	}
}
