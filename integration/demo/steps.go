//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"picket.internal/integration/lab"
)

const (
	aliceLogin = "alice@example.com"
	bobLogin   = "bob@example.com"
	password   = "correct horse battery staple"
)

// policyWith is the demo's policy; dba are the people who may reach the database, on port.
func policyWith(dba, port string) string {
	return `// Who may reach what. Whatever is not listed here is refused.
{
	"groups":    {"group:dba": [` + dba + `]},
	"tagOwners": {"tag:db": ["` + aliceLogin + `"]},
	"grants": [
		// Database administrators reach the database.
		{"src": ["group:dba"], "dst": ["tag:db"], "ip": ["tcp:` + port + `"]},
		// Everybody may see that it is up.
		{"src": ["autogroup:member"], "dst": ["tag:db"], "ip": ["icmp:*"]},
	],
	"tests": [
		{"src": "` + bobLogin + `", "deny": ["tag:db:` + port + `"]},
	],
}
`
}

func (s *show) policyOpen() string { return policyWith(`"`+aliceLogin+`"`, s.port) }

func (s *show) policyClosed() string { return policyWith("", s.port) }

// service is the database's address and port on the overlay.
func (s *show) service() string { return net.JoinHostPort(s.dbAddr, s.port) }

func (s *show) startCoordinator(ctx context.Context) (string, error) {
	var err error
	if s.policy, err = lab.NewPolicyRepo(ctx, filepath.Join(s.dir, "policy")); err != nil {
		return "", err
	}
	h, err := s.world.Host("coordinator")
	if err != nil {
		return "", err
	}
	if s.port, err = h.Port(5432); err != nil {
		return "", err
	}
	id, err := s.policy.Commit(ctx, s.policyOpen(), "let the database administrators in")
	if err != nil {
		return "", err
	}
	s.coordinator, err = h.StartCoordinator(ctx, "--policy-repo", s.policy.Dir)
	if err != nil {
		return "", err
	}
	if err := s.await(ctx, id); err != nil {
		return "", err
	}
	return fmt.Sprintf("It serves %s with policy commit %.8s.", s.coordinator.URL, id), nil
}

// await waits until commit is in force at the coordinator.
func (s *show) await(ctx context.Context, commit string) error {
	for {
		var st policyStatus
		if err := s.coordinator.JSON(ctx, &st, "policy", "status"); err != nil {
			return err
		}
		if st.Commit == commit {
			return nil
		}
		if len(st.Errors) > 0 && strings.HasPrefix(st.Refused, commit) {
			return fmt.Errorf("commit %.8s was refused: %s", commit, strings.Join(st.Errors, "; "))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("commit %.8s is not in force: %w", commit, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// policyStatus is what the demo reads of `policy status --json`.
type policyStatus struct {
	Commit  string
	Refused string
	Errors  []string
}

func (s *show) setUpPeople(ctx context.Context) (string, error) {
	for _, p := range []struct {
		host  string
		login string
		at    **laptop
	}{{"alice", aliceLogin, &s.alice}, {"bob", bobLogin, &s.bob}} {
		h, err := s.world.Host(p.host)
		if err != nil {
			return "", err
		}
		link := s.coordinator.Setup
		if p.login != aliceLogin {
			if link, err = s.coordinator.Invite(ctx, p.login); err != nil {
				return "", err
			}
		}
		*p.at = &laptop{person: lab.NewPerson(p.login, password)}
		if err := h.SetUp(ctx, (*p.at).person, link); err != nil {
			return "", err
		}
		if (*p.at).Node, err = h.StartNode(ctx); err != nil {
			return "", err
		}
	}
	return "Both have accounts with two factors.", nil
}

func (s *show) joinAlice(ctx context.Context) (string, error) {
	j, err := s.alice.Up(ctx, "--coordinator", s.coordinator.Join, "--hostname", "alice-laptop")
	if err != nil {
		return "", err
	}
	if _, err := s.alice.Host.Approve(ctx, s.alice.person, j, j.Code); err != nil {
		return "", err
	}
	if err := j.Wait(ctx); err != nil {
		return "", err
	}
	return s.address(ctx, s.alice.Node)
}

func (s *show) joinBob(ctx context.Context) (string, error) {
	j, err := s.bob.Up(ctx, "--coordinator", s.coordinator.Join, "--hostname", "bob-laptop")
	if err != nil {
		return "", err
	}
	if text, err := s.bob.Host.Approve(ctx, s.bob.person, j, "BCDF-GHJK"); err == nil {
		return "", fmt.Errorf("a wrong code was taken; the page says %q", text)
	}
	if _, err := s.bob.Host.Approve(ctx, s.bob.person, j, j.Code); err != nil {
		return "", err
	}
	if err := j.Wait(ctx); err != nil {
		return "", err
	}
	return s.address(ctx, s.bob.Node)
}

func (s *show) address(ctx context.Context, n *lab.Node) (string, error) {
	a, err := n.Address(ctx, false)
	return fmt.Sprintf("It is in, as %s.", a), err
}

func (s *show) joinServer(ctx context.Context) (string, error) {
	h, err := s.world.Host("db")
	if err != nil {
		return "", err
	}
	if s.db, err = h.StartNode(ctx); err != nil {
		return "", err
	}
	at := "0.0.0.0:"
	if s.world.Rootless() {
		at = "127.0.0.1:"
	}
	if _, err := h.Serve(ctx, "tcp", at+s.port); err != nil {
		return "", err
	}
	key, err := s.coordinator.AuthKey(ctx, "--tag", "tag:db")
	if err != nil {
		return "", err
	}
	began := time.Now()
	if _, err := s.db.CLI(ctx, "up", "--coordinator", s.coordinator.Join, "--auth-key", key, "--hostname", "db"); err != nil {
		return "", err
	}
	if _, err := s.alice.CLI(ctx, "ping", "-c", "1", "db"); err != nil {
		return "", err
	}
	took := time.Since(began)
	if s.dbAddr, err = s.db.Address(ctx, false); err != nil {
		return "", err
	}
	if err := s.again(ctx, key); err != nil {
		return "", err
	}
	return fmt.Sprintf("It is in, as %s; from `picket up` to the first answered ping took %d ms.", s.dbAddr, took.Milliseconds()), nil
}

// again tries the spent auth key on another machine.
func (s *show) again(ctx context.Context, key string) error {
	h, err := s.world.Host("stranger")
	if err != nil {
		return err
	}
	n, err := h.StartNode(ctx)
	if err != nil {
		return err
	}
	defer n.Kill()
	if _, err := n.CLI(ctx, "up", "--coordinator", s.coordinator.Join, "--auth-key", key); err == nil {
		return errors.New("the auth key worked twice")
	}
	return nil
}

func (s *show) allowed(ctx context.Context) (string, error) {
	f, err := s.alice.Dial(ctx, "tcp", s.service())
	if err != nil {
		return "", err
	}
	s.open = f
	why, err := s.alice.CLI(ctx, "why", "db:"+s.port)
	return "Connected. " + firstLine(why), err
}

func (s *show) refused(ctx context.Context) (string, error) {
	_, err := s.bob.Dial(ctx, "tcp", s.service())
	var refusal *lab.Refusal
	if !errors.As(err, &refusal) {
		return "", fmt.Errorf("bob's connection was not refused: %v", err)
	}
	if refusal.After > time.Second {
		return "", fmt.Errorf("bob's refusal took %v", refusal.After)
	}
	var why struct {
		Allow  bool
		Reason string
	}
	_ = s.bob.JSON(ctx, &why, "why", "db:"+s.port) // its exit status says refused as well
	out, _ := s.bob.CLI(ctx, "why", "db:"+s.port)
	if _, err := s.bob.CLI(ctx, "ping", "-c", "1", "db"); err != nil {
		return "", fmt.Errorf("bob may ping, but: %w", err)
	}
	return fmt.Sprintf("Refused after %d ms. %s", refusal.After.Milliseconds(), firstLine(out)), nil
}

func (s *show) badCommit(ctx context.Context) (string, error) {
	id, err := s.policy.Commit(ctx, strings.Replace(s.policyOpen(), `"group:dba"], "dst"`, `"group:dbaa"], "dst"`, 1), "oops")
	if err != nil {
		return "", err
	}
	err = s.await(ctx, id)
	if err == nil {
		return "", errors.New("a policy with a mistake was taken")
	}
	if !s.open.Alive(time.Second) {
		return "", errors.New("alice's connection was lost over a policy that is not in force")
	}
	return firstLine(err.Error()), nil
}

func (s *show) cutByCommit(ctx context.Context) (string, error) {
	began := time.Now()
	if _, err := s.policy.Commit(ctx, s.policyClosed(), "nobody needs the database today"); err != nil {
		return "", err
	}
	committed := time.Since(began)
	if _, err := s.coordinator.CLI(ctx, "policy", "reload", "--wait"); err != nil {
		return "", err
	}
	after, err := s.open.WaitCut(ctx, began)
	if err != nil {
		return "", err
	}
	if _, err := s.alice.Dial(ctx, "tcp", s.service()); err == nil {
		return "", errors.New("alice could connect again")
	}
	return fmt.Sprintf("Cut %d ms after `git commit` returned: %s.", (after - committed).Milliseconds(), s.open.Reason()), nil
}

func (s *show) restored(ctx context.Context) (string, error) {
	id, err := s.policy.Commit(ctx, s.policyOpen(), "they do need it")
	if err != nil {
		return "", err
	}
	if err := s.await(ctx, id); err != nil {
		return "", err
	}
	if _, err := s.coordinator.CLI(ctx, "policy", "reload", "--wait"); err != nil {
		return "", err
	}
	began := time.Now()
	if s.open, err = s.alice.Dial(ctx, "tcp", s.service()); err != nil {
		return "", err
	}
	return fmt.Sprintf("Connected, %d ms.", time.Since(began).Milliseconds()), nil
}

func (s *show) coordinatorKilled(ctx context.Context) (string, error) {
	s.coordinator.Kill()
	time.Sleep(time.Second) // let an outage last
	if !s.open.Alive(500 * time.Millisecond) {
		return "", errors.New("the connection stopped with the coordinator")
	}
	fresh, err := s.alice.Dial(ctx, "tcp", s.service())
	if err != nil {
		return "", fmt.Errorf("no new connection while the coordinator was down: %w", err)
	}
	fresh.Kill()
	if err := s.coordinator.Start(ctx); err != nil {
		return "", err
	}
	began := time.Now()
	if err := s.awaitOnline(ctx, 3); err != nil {
		return "", err
	}
	back := time.Since(began)
	if !s.open.Alive(500 * time.Millisecond) {
		return "", errors.New("the connection stopped when the coordinator came back")
	}
	return fmt.Sprintf("Connections old and new went on; all three machines were back after %.1f s, by themselves. Longest silence: %d ms.", back.Seconds(), s.open.LongestGap().Milliseconds()), nil
}

// awaitOnline waits until n nodes are online.
func (s *show) awaitOnline(ctx context.Context, n int) error {
	for {
		var nodes []struct{ Online bool }
		if err := s.coordinator.JSON(ctx, &nodes, "nodes", "list"); err != nil {
			return err
		}
		online := 0
		for _, node := range nodes {
			if node.Online {
				online++
			}
		}
		if online >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d machines came back: %w", online, n, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *show) removed(ctx context.Context) (string, error) {
	if _, err := s.bob.CLI(ctx, "ping", "-c", "1", "db"); err != nil {
		return "", fmt.Errorf("before: %w", err)
	}
	out, err := s.coordinator.CLI(ctx, "nodes", "remove", "bob-laptop", "--wait")
	if err != nil {
		return "", err
	}
	if _, err := s.bob.CLI(ctx, "ping", "-c", "1", "db"); err == nil {
		return "", errors.New("bob's laptop still reaches the database")
	}
	var peers []struct{ Name string }
	if err := s.db.JSON(ctx, &peers, "peers"); err != nil {
		return "", err
	}
	for _, p := range peers {
		if p.Name == "bob-laptop" {
			return "", errors.New("the database still knows bob's laptop")
		}
	}
	if !s.open.Alive(500 * time.Millisecond) {
		return "", errors.New("alice's connection was lost with bob's laptop")
	}
	return "Cut off everywhere: " + line(out, "generation"), nil
}

func firstLine(s string) string { s, _, _ = strings.Cut(strings.TrimSpace(s), "\n"); return s }

// line is the last line of s that begins with word.
func line(s, word string) string {
	for _, l := range strings.Split(s, "\n") {
		if strings.HasPrefix(l, word) {
			return l
		}
	}
	return firstLine(s)
}
