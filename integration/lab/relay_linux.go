package lab

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var addLine = regexp.MustCompile(`(?m)^Add it: picket-coordinator (.+)$`)

// StartRelay starts a relay on the host with further arguments of `relay`, and names it to the coordinator.
func (h *Host) StartRelay(ctx context.Context, c *Coordinator, name string, args ...string) (*Process, error) {
	at := net.JoinHostPort(h.IP.String(), "8443")
	p, err := h.Start("relay", append([]string{
		filepath.Join(h.world.config.Bin, "picket-coordinator"), "relay", "--name", name, "--coordinator", c.Join,
		"--dir", filepath.Join(h.Dir, "relay"), "--listen", at, "--url", "https://" + at,
	}, args...)...)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := p.WaitFor(within, "relaying", func(out string) bool { return strings.Contains(out, "\nRelaying ") }); err != nil {
		return nil, err
	}
	m := addLine.FindStringSubmatch(p.Output())
	if m == nil {
		return nil, fmt.Errorf("the relay %s does not say how to add it:\n%s", name, p.Output())
	}
	_, err = c.CLI(ctx, strings.Fields(m[1])...)
	return p, err
}

var homeLine = regexp.MustCompile(`(?m)^time=(\S+) .*msg="home relay" relay=(\S+)`)

// HomeRelay is the node's home relay, and since when, as its log says; "" for none.
func (n *Node) HomeRelay() (name string, since time.Time) {
	said := homeLine.FindAllStringSubmatch(n.Output(), -1)
	if len(said) == 0 {
		return "", since
	}
	last := said[len(said)-1]
	since, _ = time.Parse(time.RFC3339Nano, last[1])
	return strings.Trim(last[2], `"`), since
}
