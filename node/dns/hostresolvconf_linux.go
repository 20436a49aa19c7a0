package dns

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// resolvconfMode hands our address to resolvconf(8), of Debian or openresolv, as that of an interface. The name begins with tun, which
// Debian's /etc/resolvconf/interface-order puts in front; after a loopback address Debian's leaves out all others.
type resolvconfMode struct {
	host *linuxHost
	last string // what it was told
}

const (
	resolvconfName = "tun-picket"
	resolvconfTime = 10 * time.Second
)

// resolvconf is the program's path; "" when there is none.
func (h *linuxHost) resolvconf() string {
	for _, dir := range []string{"/sbin", "/usr/sbin", "/usr/bin", "/usr/local/sbin"} {
		if p := h.path(filepath.Join(dir, "resolvconf")); isProgram(p) {
			return p
		}
	}
	return ""
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func (r *resolvconfMode) apply(s HostSettings) HostState {
	text := fmt.Sprintf("nameserver %s\n", s.Server)
	if len(s.Search) > 0 {
		text += "search " + strings.Join(s.Search, " ") + "\n"
	}
	if r.last != text || len(r.records(true)) == 0 {
		if err := r.run(text, "-a", resolvconfName+".inet"); err != nil {
			return HostState{Trouble: fmt.Sprintf("resolvconf does not take our resolver: %v", err)}
		}
		r.last = text
	}
	st := HostState{Changed: []string{"resolvconf's record " + resolvconfName + ".inet"}}
	if got := parseResolvConf(readSome(r.host.path(resolvPath))).nameservers; len(got) == 0 || got[0].Addr() != s.Server {
		st.Trouble = "resolvconf puts other resolvers before ours, so names of peers may not be found: look at /etc/resolvconf/interface-order"
	}
	return st
}

func (r *resolvconfMode) run(stdin string, args ...string) error {
	program := r.host.resolvconf()
	if program == "" {
		return fmt.Errorf("there is no program resolvconf any more")
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolvconfTime)
	defer cancel()
	// Our service has a mask of its own, but what resolvconf writes is for everybody.
	c := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `umask 022 && exec "$0" "$@"`, program}, args...)...)
	c.Stdin, c.Env, c.Dir = strings.NewReader(stdin), []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out[:min(len(out), 300)]))
	}
	return nil
}

// records are the files in which resolvconf keeps what it was told: ours, or those of everybody else.
func (r *resolvconfMode) records(ours bool) (out []string) {
	for _, dir := range []string{"/run/resolvconf/interface", "/etc/resolvconf/run/interface", "/run/resolvconf/interfaces", "/run/resolvconf/keys"} {
		entries, _ := os.ReadDir(r.host.path(dir))
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), resolvconfName) == ours {
				out = append(out, r.host.path(filepath.Join(dir, e.Name())))
			}
		}
	}
	return out
}

func (r *resolvconfMode) restore() error {
	r.last = ""
	if len(r.records(true)) == 0 || r.host.resolvconf() == "" {
		return nil
	}
	return r.run("", "-d", resolvconfName+".inet")
}

func (r *resolvconfMode) upstreams() (out []netip.AddrPort) {
	for _, file := range r.records(false) {
		for _, a := range parseResolvConf(readSome(file)).nameservers {
			if !slices.Contains(out, a) && len(out) < maxOwn {
				out = append(out, a)
			}
		}
	}
	return out
}

func (*resolvconfMode) flush() {}
