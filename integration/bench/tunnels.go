//go:build linux

package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"picket.internal/integration/lab"
)

// mtu of both tunnels: Picket's own.
const mtu = 1280

// tunnel is one of the two things compared.
type tunnel interface {
	name() string
	// start brings a fresh tunnel up between the client's host and the server's, so that no round inherits memory or keys.
	start(ctx context.Context) (live, error)
}

// live is a tunnel that is up.
type live struct {
	target string // the server's address inside it
	ends   []*lab.Process
}

func (l live) stop() {
	for _, p := range l.ends {
		_ = p.Stop(5 * time.Second) // what it had to show is measured
	}
}

// bare is wireguard-go as it is.
type bare struct {
	self  string
	hosts [2]*lab.Host
	conf  [2]string // files with the devices' configuration
}

// bareAddresses are inside the bare tunnel, far from Picket's 100.64.0.0/10.
var bareAddresses = [2]string{"10.99.0.1", "10.99.0.2"}

func newBare(self string, client, server *lab.Host) (*bare, error) {
	b := &bare{self: self, hosts: [2]*lab.Host{client, server}}
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	for i, h := range b.hosts {
		far := 1 - i
		conf := fmt.Sprintf("private_key=%s\nlisten_port=51820\npublic_key=%s\nendpoint=%s:51820\nallowed_ip=%s/32\n",
			hex.EncodeToString(keys[i].Bytes()), hex.EncodeToString(keys[far].PublicKey().Bytes()), b.hosts[far].IP, bareAddresses[far])
		b.conf[i] = filepath.Join(h.Dir, "wireguard.conf")
		if err := os.WriteFile(b.conf[i], []byte(conf), 0o600); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bare) name() string { return "wireguard-go" }

func (b *bare) start(ctx context.Context) (live, error) {
	l := live{target: bareAddresses[1]}
	for i, h := range b.hosts {
		p, err := h.Start("wireguard", b.self, helperWord, "wireguard", b.conf[i], bareAddresses[i]+"/24")
		if err != nil {
			l.stop()
			return live{}, err
		}
		l.ends = append(l.ends, p)
		if err := p.WaitFor(ctx, "device that is up", func(out string) bool { return strings.Contains(out, "up\n") }); err != nil {
			l.stop()
			return live{}, err
		}
	}
	return l, nil
}

// picket is two joined nodes.
type picket struct {
	nodes  [2]*lab.Node
	target string
	title  string
	args   []string // of the agents
}

// rules is how many the policy has. All of them concern both nodes, so that each node is sent every one.
const rules = 1000

// policyText allows the flows of the bench by the last of many rules. The others' ports lie apart, so that none can be merged.
func policyText() string {
	var s strings.Builder
	s.WriteString("{\n\"tagOwners\": {\"tag:client\": [], \"tag:server\": []},\n\"grants\": [\n")
	for i := range rules - 1 {
		fmt.Fprintf(&s, "{\"src\": [\"tag:client\"], \"dst\": [\"tag:server\"], \"ip\": [\"tcp:%d\"]},\n", 10_000+2*i)
	}
	fmt.Fprintf(&s, "{\"src\": [\"tag:client\"], \"dst\": [\"tag:server\"], \"ip\": [\"tcp:%s\", \"tcp:%s\", \"tcp:%s\", \"udp:%s\", \"icmp:*\"]},\n]}\n",
		iperfPort, streamPort, connectPort, countPort)
	return s.String()
}

// newPicket starts a coordinator and joins both nodes.
func newPicket(ctx context.Context, w *lab.World, dir string, client, server *lab.Host) (*picket, error) {
	repo, err := lab.NewPolicyRepo(ctx, filepath.Join(dir, "policy"))
	if err != nil {
		return nil, err
	}
	if _, err := repo.Commit(ctx, policyText(), "a thousand rules"); err != nil {
		return nil, err
	}
	h, err := w.Host("coordinator")
	if err != nil {
		return nil, err
	}
	c, err := h.StartCoordinator(ctx, "--policy-repo", repo.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := c.CLI(ctx, "policy", "reload", "--wait"); err != nil {
		return nil, err
	}
	p := &picket{title: "Picket"}
	for i, h := range []*lab.Host{client, server} {
		if p.nodes[i], err = join(ctx, c, h); err != nil {
			return nil, err
		}
	}
	p.target, err = p.nodes[1].Address(ctx, false)
	p.stop()
	return p, err
}

// join starts a node on h that joins with an auth key for the tag of h's name.
func join(ctx context.Context, c *lab.Coordinator, h *lab.Host) (*lab.Node, error) {
	key, err := c.AuthKey(ctx, "--tag", "tag:"+h.Name)
	if err != nil {
		return nil, err
	}
	n, err := h.StartNode(ctx)
	if err != nil {
		return nil, err
	}
	_, err = n.CLI(ctx, "up", "--coordinator", c.Join, "--auth-key", key, "--hostname", h.Name)
	return n, err
}

func (p *picket) name() string { return p.title }

// with is the same nodes under further arguments; only one of the two may be up.
func (p *picket) with(title string, args ...string) *picket {
	return &picket{nodes: p.nodes, target: p.target, title: title, args: args}
}

func (p *picket) stop() {
	for _, n := range p.nodes {
		_ = n.Stop(5 * time.Second)
	}
}

func (p *picket) start(ctx context.Context) (live, error) {
	l := live{target: p.target}
	for _, n := range p.nodes {
		if err := n.StartWith(ctx, p.args...); err != nil {
			l.stop()
			return live{}, err
		}
		l.ends = append(l.ends, n.Process)
	}
	return l, nil
}

// at is a service inside a tunnel.
func (l live) at(port string) string { return net.JoinHostPort(l.target, port) }
