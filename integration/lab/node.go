//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"picket.internal/node/localapi"
)

// Node is an agent on a host.
type Node struct {
	*Process
	Host   *Host
	SOCKS5 string // proxy address in a rootless world
	args   []string
	socket string
	local  *localapi.Client
}

// StartNode starts the agent on host with further arguments of `run`, and waits until its socket answers.
func (h *Host) StartNode(ctx context.Context, args ...string) (*Node, error) {
	return h.StartProgram(ctx, "picket", args...)
}

// StartProgram is StartNode with another build of the agent, from the folder with the programs.
func (h *Host) StartProgram(ctx context.Context, program string, args ...string) (*Node, error) {
	n := &Node{Host: h, socket: filepath.Join(h.Dir, "picket.sock")}
	n.local = localapi.NewClient(n.socket)
	n.args = []string{filepath.Join(h.world.config.Bin, program), "run", "--state", filepath.Join(h.Dir, "state"), "--socket", n.socket}
	if h.ns != nil {
		// Hosts share one file system, and so one folder of WireGuard sockets, which are named after the devices.
		n.args = append(n.args, "--tun", h.tun())
		if h.etc == "" { // the machine's own resolver is none of the lab's business
			n.args = append(n.args, "--dns=off")
		}
	} else {
		port, err := h.freePort()
		if err != nil {
			return nil, err
		}
		n.SOCKS5 = fmt.Sprintf("127.0.0.1:%d", port)
		n.args = append(n.args, "--tun=userspace", "--socks5", n.SOCKS5)
	}
	n.args = append(n.args, args...)
	return n, n.Start(ctx)
}

func (h *Host) tun() string { return "pk-" + h.Name[:min(len(h.Name), 12)] }

// Interface is the name of the node's TUN; privileged worlds only.
func (n *Node) Interface() string { return n.Host.tun() }

// Status asks the agent, as `picket status` does, but without a process.
func (n *Node) Status(ctx context.Context) (localapi.Status, error) {
	return n.local.Status(ctx)
}

// Start starts the agent (again) and waits until its socket answers.
func (n *Node) Start(ctx context.Context) error { return n.StartWith(ctx) }

// StartWith is Start with further arguments of `run`, this time only.
func (n *Node) StartWith(ctx context.Context, more ...string) error {
	p, err := n.Host.Start("agent", slices.Concat(n.args, more)...)
	if err != nil {
		return err
	}
	n.Process = p
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return p.WaitFor(ctx, "answer on its socket", func(string) bool {
		c, err := net.Dial("unix", n.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// CLI runs a command of picket on the node's host, e.g. "peers".
func (n *Node) CLI(ctx context.Context, args ...string) (string, error) {
	return n.Host.Run(ctx, append(append([]string{n.args[0]}, args...), "--socket", n.socket)...)
}

// JSON runs a command with --json and reads its answer into v. A command that answers and still fails, as `why` and `status` do when
// the answer is no, is no error here.
func (n *Node) JSON(ctx context.Context, v any, args ...string) error {
	out, err := n.CLI(ctx, append(args, "--json")...)
	if err != nil && !strings.HasPrefix(out, "{") {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("read the answer of %v: %w\n%s", args, err, out)
	}
	return nil
}

// Address returns the node's overlay address, IPv4 or IPv6.
func (n *Node) Address(ctx context.Context, v6 bool) (string, error) {
	var s struct{ Addresses []string }
	if err := n.JSON(ctx, &s, "status"); err != nil {
		return "", err
	}
	for _, a := range s.Addresses {
		if strings.Contains(a, ":") == v6 {
			return a, nil
		}
	}
	return "", fmt.Errorf("%s has no such overlay address: %v", n.Host.Name, s.Addresses)
}

// Joining is a `picket up` that waits for a person.
type Joining struct {
	*Process
	URL, Code string
}

var (
	urlInTerminal  = regexp.MustCompile(`https://\S+/join/\S+`)
	codeInTerminal = regexp.MustCompile(`\b([A-Z0-9]{4}-[A-Z0-9]{4})\b`)
)

// Up starts `picket up` and returns once the terminal shows URL and code.
func (n *Node) Up(ctx context.Context, args ...string) (*Joining, error) {
	p, err := n.Host.Start("up", append([]string{n.args[0], "up", "--socket", n.socket}, args...)...)
	if err != nil {
		return nil, err
	}
	j := &Joining{Process: p}
	before := len(p.Output())
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = p.WaitFor(ctx, "login URL and code", func(out string) bool {
		out = out[min(before, len(out)):]
		j.URL = urlInTerminal.FindString(out)
		if m := codeInTerminal.FindStringSubmatch(strings.ReplaceAll(out, j.URL, "")); m != nil {
			j.Code = m[1]
		}
		return j.URL != "" && j.Code != ""
	})
	return j, err
}

// Wait blocks until `picket up` has ended, and returns its error.
func (j *Joining) Wait(ctx context.Context) error {
	select {
	case <-j.Done():
		return j.err
	case <-ctx.Done():
		return fmt.Errorf("picket up goes on waiting:\n%s", j.Output())
	}
}

// run sends the person on an errand with the browser of host.
func (h *Host) browse(ctx context.Context, e errand) (errandDone, error) {
	in, err := json.Marshal(e)
	if err != nil {
		return errandDone{}, err
	}
	out, err := h.helper(ctx, bytes.NewReader(in), "browse")
	var done errandDone
	if jsonErr := json.Unmarshal([]byte(out), &done); jsonErr == nil && done.Person != nil {
		e.Person.TOTP, e.Person.Recovery, e.Person.Spent = done.Person.TOTP, done.Person.Recovery, done.Person.Spent
	}
	return done, err
}

// SetUp has p follow a setup link with the browser of host.
func (h *Host) SetUp(ctx context.Context, p *Person, link string) error {
	_, err := h.browse(ctx, errand{Person: p, Do: "setup", Link: link})
	return err
}

// Approve has p type a node's code into its login page: what the page says then.
func (h *Host) Approve(ctx context.Context, p *Person, j *Joining, code string) (string, error) {
	done, err := h.browse(ctx, errand{Person: p, Do: "approve", Link: j.URL, Code: code})
	return done.Text, err
}

// Deny has p press Deny on a node's login page: what the page says then.
func (h *Host) Deny(ctx context.Context, p *Person, j *Joining) (string, error) {
	done, err := h.browse(ctx, errand{Person: p, Do: "deny", Link: j.URL})
	return done.Text, err
}

// Open has p open a page, signing in first: title and text of the page.
func (h *Host) Open(ctx context.Context, p *Person, link string) (title, text string, err error) {
	done, err := h.browse(ctx, errand{Person: p, Do: "open", Link: link})
	return done.Title, done.Text, err
}

// Command is how a person runs the node's command line by hand.
func (n *Node) Command() string { return n.args[0] + " --socket " + n.socket }

// Ping asks the agent to ping a peer once, as `picket ping` does, but without a process. What is refused or unanswered is no error but in the answer.
func (n *Node) Ping(ctx context.Context, peer string, timeout time.Duration) (localapi.PingAnswer, error) {
	return n.local.Ping(ctx, localapi.Ping{Target: peer, Timeout: timeout})
}
