//go:build linux

package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

var update = flag.Bool("update", false, "rewrite the table in docs/paths.md")

// hub is the coordinator's name, which hosts know by their /etc/hosts.
const hub = "hub.example"

// meeting is the world of TestWhoMeetsInNamespaces: two nodes of each kind of place, called by the place's number and "a" or "b".
type meeting struct {
	*network
	observers *lab.Observers
	etc       map[string]string
	lans      int // number of the newest
}

func nodeName(place int, which string) string { return fmt.Sprintf("n%d%s", place, which) }

func newMeeting(t *testing.T) *meeting {
	w, ctx := world(t, false)
	n := &network{World: w, t: t, ctx: ctx, people: map[string]*lab.Person{}, nodes: map[string]*lab.Node{}}
	var err error
	n.policy, err = lab.NewPolicyRepo(ctx, t.TempDir()+"/policy")
	n.must(err)
	n.commit(`{
		"tagOwners": {"tag:node": []},
		"grants": [{"src": ["*"], "dst": ["*"], "ip": ["icmp:*", "tcp:7000"]}],
	}`)
	m := &meeting{network: n, lans: 10}
	h := n.host("coordinator")
	m.etc = map[string]string{"hosts": fmt.Sprintf("127.0.0.1 localhost\n%s %s\n%s %s\n", h.IP, hub, h.IPv6(), hub)}
	n.coordinator, err = h.StartCoordinator(ctx, "--policy-repo", n.policy.Dir, "--listen", ":443", "--url", "https://"+hub)
	n.must(err)
	m.observers, err = w.Observers()
	n.must(err)
	return m
}

// lan is the number of another network.
func (m *meeting) lan() int {
	m.lans++
	return m.lans
}

// hosts makes the two machines of a kind of place; and the name and password of the proxy that is their only way out, if it is.
func (m *meeting) hosts(i int, p place) (a, b *lab.Host, proxies []string) {
	var carrier *lab.LAN
	if p.carrier != nil {
		var err error
		carrier, _, err = m.NAT(m.lan(), *p.carrier)
		m.must(err)
	}
	var made []*lab.Host
	for j, which := range []string{"a", "b"} {
		if p.router == nil {
			h := m.host(nodeName(i, which))
			if p.only6 {
				m.must(h.DropIPv4())
			}
			made = append(made, h)
			continue
		}
		var lan *lab.LAN
		var router *lab.Host
		var err error
		if carrier != nil {
			lan, router, err = carrier.NAT(m.lan(), 2+j, *p.router)
		} else {
			lan, router, err = m.NAT(m.lan(), *p.router)
		}
		m.must(err)
		if p.router.Closed {
			_, err := router.OwnEtc(m.etc)
			m.must(err)
			proxy, err := lan.Proxy(m.ctx, router, "alice", "sesame")
			m.must(err)
			proxies = append(proxies, strings.Replace(proxy, "http://", "http://alice:sesame@", 1))
		}
		h, err := lan.Behind(nodeName(i, which), 2)
		m.must(err)
		made = append(made, h)
	}
	return made[0], made[1], proxies
}

// build makes the places, has observers confirm that each is what it says, and has all nodes join.
func (m *meeting) build() {
	key, err := m.coordinator.AuthKey(m.ctx, "--tag", "tag:node", "--reusable")
	m.must(err)
	var tasks tasks
	for i, p := range places {
		a, b, proxies := m.hosts(i, p)
		tasks.run(func() error { return m.observe(p, a, b) })
		for j, h := range []*lab.Host{a, b} {
			_, err := h.OwnEtc(m.etc)
			m.must(err)
			if proxies != nil {
				m.must(os.Setenv("HTTPS_PROXY", proxies[j])) // of the node alone
			}
			node, err := h.StartNode(m.ctx, "--port-mapping=off", "--dns=off")
			m.must(os.Unsetenv("HTTPS_PROXY"))
			m.must(err)
			m.nodes[h.Name] = node
			tasks.run(func() error {
				_, err := node.CLI(m.ctx, "up", "--coordinator", m.coordinator.Join, "--auth-key", key, "--hostname", h.Name)
				return err
			})
		}
	}
	m.must(tasks.wait())
}

// observe holds a place's machines to what it says of itself.
func (m *meeting) observe(p place, a, b *lab.Host) error {
	for _, h := range []*lab.Host{a, b} {
		got, err := m.observers.Behaviour(h)
		if err != nil || got != p.behaviour() {
			return fmt.Errorf("the lab's %q is not what it says: %+v, %v, want %+v", p.name, got, err, p.behaviour())
		}
	}
	if p.carrier == nil {
		return nil
	}
	got, err := m.observers.Hairpins(a, b)
	if err != nil || got != p.carrier.Hairpin {
		return fmt.Errorf("the lab's %q is not what it says: hairpin %v, %v", p.name, got, err)
	}
	return nil
}

// tasks run at once.
type tasks struct {
	group sync.WaitGroup
	mu    sync.Mutex
	errs  []error
}

func (t *tasks) run(f func() error) {
	t.group.Go(func() {
		err := f()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.errs = append(t.errs, err)
	})
}

func (t *tasks) wait() error {
	t.group.Wait()
	return errors.Join(t.errs...)
}

// checks asks netcheck at each place.
func (m *meeting) checks() error {
	var tasks tasks
	for i, p := range places {
		tasks.run(func() error {
			var out string
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); { // reflectors are known a moment after the join
				out, _ = m.nodes[nodeName(i, "a")].CLI(m.ctx, "netcheck") // it fails where UDP is blocked
				if !slices.ContainsFunc(p.netcheck, func(s string) bool { return !strings.Contains(out, s) }) {
					return nil
				}
			}
			return fmt.Errorf("netcheck at %q does not say %q:\n%s", p.name, p.netcheck, out)
		})
	}
	return tasks.wait()
}

// How long a pair that should meet is given, and one that should not is watched.
const (
	meetWithin = 25 * time.Second
	relayedFor = 2 * time.Second
)

// met is how two nodes met: after how long the first packet was answered, and after how long the first by a direct path, 0 for never.
type met struct{ first, direct time.Duration }

// try has a node ping another until a direct path answers, or as long as is of use.
func (m *meeting) try(from, to string, expected bool) (r met, err error) {
	began := time.Now()
	var last string
	for since := time.Duration(0); since < meetWithin; since = time.Since(began) {
		if !expected && since > relayedFor && r.first > 0 {
			break
		}
		a, err := m.nodes[from].Ping(m.ctx, to, time.Second)
		if err != nil {
			return r, err
		}
		if a.Error != "" {
			last = a.Error
			continue
		}
		if r.first == 0 {
			r.first = time.Since(began)
		}
		if strings.HasPrefix(a.Path, "direct ") {
			r.direct = time.Since(began)
			return r, nil
		}
		wait(m.ctx, 50*time.Millisecond)
	}
	if r.first == 0 {
		return r, errors.New(last)
	}
	return r, nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// pairs measures each pair of places, those of one round at once: they have no node in common. The result is by row and column, row at most column.
func (m *meeting) pairs() (map[[2]int]met, error) {
	results := make(map[[2]int]met)
	var mu sync.Mutex
	var errs []error
	for round := range places {
		var tasks tasks
		for i := range places {
			j := (round - i + len(places)) % len(places)
			if i > j {
				continue
			}
			from, to := nodeName(i, "a"), nodeName(j, "a")
			if i == j {
				to = nodeName(j, "b")
			}
			tasks.run(func() error {
				want := meet(places[i], places[j])
				r, err := m.try(from, to, want)
				mu.Lock()
				results[[2]int{i, j}] = r
				mu.Unlock()
				switch {
				case err != nil:
					return fmt.Errorf("%q to %q: no answer: %w", places[i].name, places[j].name, err)
				case want != (r.direct > 0):
					return fmt.Errorf("%q to %q: direct %v, want %v: %+v", places[i].name, places[j].name, r.direct > 0, want, r)
				}
				return nil
			})
		}
		errs = append(errs, tasks.wait())
	}
	return results, errors.Join(errs...)
}

// again looks at the relayed pairs once more, after all that time.
func (m *meeting) again(results map[[2]int]met) error {
	var tasks tasks
	for at, r := range results {
		if r.direct > 0 || r.first == 0 {
			continue
		}
		to := nodeName(at[1], "a")
		if at[0] == at[1] {
			to = nodeName(at[1], "b")
		}
		tasks.run(func() error {
			a, err := m.nodes[nodeName(at[0], "a")].Ping(m.ctx, to, 5*time.Second)
			if err != nil || a.Error != "" || a.Path != "relay home" {
				return fmt.Errorf("%q to %q later: %+v, %v, want the relay", places[at[0]].name, places[at[1]].name, a, err)
			}
			return nil
		})
	}
	return tasks.wait()
}

// TestWhoMeetsInNamespaces tries each pair of places with the real programs through the kernel's NAT.
func TestWhoMeetsInNamespaces(t *testing.T) {
	if err := lab.CanProxy(); err != nil {
		t.Skipf("needs an HTTP proxy: %v", err)
	}
	began := time.Now()
	m := newMeeting(t)
	m.build()
	t.Logf("all have joined after %v", time.Since(began))
	if err := m.checks(); err != nil {
		t.Error(err)
	}
	t.Logf("netcheck is done after %v", time.Since(began))
	results, err := m.pairs()
	if err != nil {
		t.Error(err)
	}
	t.Logf("all pairs are done after %v", time.Since(began))
	if err := m.again(results); err != nil {
		t.Error(err)
	}
	onPage(t, table(results))
}

// table is the result as the page shows it.
func table(results map[[2]int]met) string {
	var b strings.Builder
	fmt.Fprint(&b, "| |")
	for _, p := range places {
		fmt.Fprintf(&b, " %s |", p.name)
	}
	fmt.Fprint(&b, "\n|"+strings.Repeat("---|", len(places)+1)+"\n")
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }
	for i, p := range places {
		fmt.Fprintf(&b, "| **%s** |", p.name)
		for j := range places {
			r := results[[2]int{i, j}]
			switch {
			case j < i:
				fmt.Fprint(&b, " |")
			case r.direct > 0:
				fmt.Fprintf(&b, " %s / %s |", seconds(r.first), seconds(r.direct))
			default:
				fmt.Fprintf(&b, " relay %s |", seconds(r.first))
			}
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintln(&b)
	for _, p := range places {
		fmt.Fprintf(&b, "- **%s**: %s\n", p.name, p.words)
	}
	return b.String()
}

// onPage holds docs/paths.md to a table, but not to its times.
func onPage(t *testing.T, table string) {
	t.Helper()
	const file, begin, end = "../docs/paths.md", "<!-- table: go test ./integration -run TestWhoMeetsInNamespaces -update -->\n", "<!-- end of namespaces -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	times := regexp.MustCompile(`\d+\.\d\d\b`)
	if plain := func(s string) string { return times.ReplaceAllString(s, "T") }; plain(old) != plain(table) {
		t.Errorf("%s does not have this table; rewrite it with -update:\n%s", file, table)
	}
}
