//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// PolicyRepo is a Git repository with a policy file in it.
type PolicyRepo struct{ Dir string }

// NewPolicyRepo makes one in dir, on branch main, without a commit yet.
func NewPolicyRepo(ctx context.Context, dir string) (*PolicyRepo, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &PolicyRepo{dir}
	_, err := r.Git(ctx, "init", "-q", "-b", "main")
	return r, err
}

// Git runs git in the repository, away from anybody's settings.
func (r *PolicyRepo) Git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=Security Team", "-c", "user.email=security@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = r.Dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Commit writes text as policy.hujson and commits it: the commit's id.
func (r *PolicyRepo) Commit(ctx context.Context, text, message string) (string, error) {
	if err := os.WriteFile(filepath.Join(r.Dir, "policy.hujson"), []byte(text), 0o644); err != nil {
		return "", err
	}
	if _, err := r.Git(ctx, "add", "policy.hujson"); err != nil {
		return "", err
	}
	if _, err := r.Git(ctx, "commit", "-q", "--allow-empty", "-m", message); err != nil {
		return "", err
	}
	return r.Git(ctx, "rev-parse", "HEAD")
}
