//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// Coordinator is the world's coordinator.
type Coordinator struct {
	*Process
	Host  *Host
	URL   string
	Join  string // join string
	Setup string // first admin's setup link, as the first start printed it
	dir   string
	args  []string
}

var (
	joinLine  = regexp.MustCompile(`(?m)^ *Join string: +(\S+)`)
	setupLine = regexp.MustCompile(`(?m)^ *First admin: +(\S+)`)
	readyLine = regexp.MustCompile(`(?m)^ *Serving `)
)

// StartCoordinator starts the coordinator on host with further arguments of `serve`, and waits until it serves.
func (h *Host) StartCoordinator(ctx context.Context, args ...string) (*Coordinator, error) {
	port, err := h.Port(8443)
	if err != nil {
		return nil, err
	}
	at := net.JoinHostPort(h.IP.String(), port)
	c := &Coordinator{Host: h, URL: "https://" + at, dir: filepath.Join(h.Dir, "coordinator")}
	c.args = append([]string{filepath.Join(h.world.config.Bin, "picket-coordinator"), "serve", "--dir", c.dir, "--listen", at, "--url", c.URL}, args...)
	return c, c.Start(ctx)
}

// Start starts it (again) and waits until it serves.
func (c *Coordinator) Start(ctx context.Context) error { return c.StartWith(ctx) }

// StartWith is Start with further arguments of `serve`, this time only.
func (c *Coordinator) StartWith(ctx context.Context, more ...string) error {
	p, err := c.Host.Start("coordinator", slices.Concat(c.args, more)...)
	if err != nil {
		return err
	}
	before := len(p.Output())
	c.Process = p
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = p.WaitFor(ctx, "coordinator serving", func(out string) bool {
		return len(out) > before && readyLine.MatchString(out[before:])
	})
	if err != nil {
		return err
	}
	if m := joinLine.FindStringSubmatch(p.Output()); m != nil {
		c.Join = m[1]
	}
	if m := setupLine.FindStringSubmatch(p.Output()); m != nil {
		c.Setup = m[1]
	}
	return nil
}

// CLI runs an operator's command, e.g. "nodes", "list".
func (c *Coordinator) CLI(ctx context.Context, args ...string) (string, error) {
	return c.Host.Run(ctx, append(append([]string{c.args[0]}, args...), "--dir", c.dir)...)
}

// JSON runs an operator's command with --json and reads its answer into v.
func (c *Coordinator) JSON(ctx context.Context, v any, args ...string) error {
	out, err := c.CLI(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("read the answer of %v: %w\n%s", args, err, out)
	}
	return nil
}

// AuthKey makes an auth key for tags.
func (c *Coordinator) AuthKey(ctx context.Context, flags ...string) (string, error) {
	var k struct{ Key string }
	err := c.JSON(ctx, &k, append([]string{"keys", "create"}, flags...)...)
	return k.Key, err
}

// Invite adds a person and returns the setup link.
func (c *Coordinator) Invite(ctx context.Context, login string) (string, error) {
	var added struct{ URL string }
	err := c.JSON(ctx, &added, "users", "add", login)
	return added.URL, err
}

// Dir is the coordinator's directory.
func (c *Coordinator) Dir() string { return c.dir }

// Command is how a person runs the operator's command line by hand.
func (c *Coordinator) Command() string { return c.args[0] + " --dir " + c.dir }
