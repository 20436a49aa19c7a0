package integration

import (
	"os/exec"
	"sort"
	"strings"
	"testing"
)

const module = "picket.internal"

// rule says what packages under a folder may import of ours, and what they may never know, directly or through others.
type rule struct {
	folder string   // relative to the module; "x/*" means every package under x but not x itself
	may    []string // of ours, same notation; the package itself and its own subfolders marked explicitly
	never  []string // import path prefixes, checked over the whole dependency tree
	why    string
}

// rules are DESIGN's table. The first rule whose folder fits a package is its rule.
var rules = []rule{
	{"acl", nil, []string{"net/http", "os", "golang.zx2c4.com/wireguard"},
		"acl is text in, verdicts out: no files, no network, no clock"},
	{"acl/*", []string{"acl"}, []string{"net/http", "golang.zx2c4.com/wireguard"},
		"what is made of policies is text in, text out, as acl is, and knows acl only"},
	{"wgtun/key", nil, []string{"net/http", "golang.zx2c4.com/wireguard"},
		"a key package that reaches out can leak"},
	{"wgtun/packet", nil, []string{"net/http", "golang.zx2c4.com/wireguard", "os/exec"},
		"packet is a view over bytes"},
	{"wgtun/filter", []string{"acl", "wgtun/packet"}, []string{"net/http", "golang.zx2c4.com/wireguard"},
		"the filter judges packets by rules and knows nothing of HTTP or the coordinator"},
	{"wgtun/relay", []string{"wgtun/key"}, nil, "relay knows keys and frames only"},
	{"wgtun", []string{"wgtun/*", "acl"}, []string{"net/http", "github.com/vishvananda/netlink", module + "/coordinator", module + "/node"},
		"the engine runs without HTTP, netlink, coordinator or agent"},
	{"wgtun/*", []string{"wgtun/*", "acl"}, []string{"net/http", "github.com/vishvananda/netlink", module + "/coordinator", module + "/node"},
		"the engine runs without HTTP, netlink, coordinator or agent"},
	{"coordinator/protocol", []string{"acl", "wgtun/key"}, []string{"net/http", "golang.zx2c4.com/wireguard"},
		"protocol is messages both sides speak, not either side's logic"},
	{"coordinator", []string{"coordinator/protocol", "acl", "wgtun/key", "wgtun/relay"}, []string{module + "/node", "golang.zx2c4.com/wireguard", "modernc.org/sqlite"},
		"the coordinator's decisions know neither the agent, nor the engine, nor a technology"},
	{"coordinator/*", []string{"coordinator", "coordinator/protocol", "coordinator/clientaddr", "acl", "wgtun/key"}, []string{module + "/node", "golang.zx2c4.com/wireguard"},
		"technologies do not know their siblings or the agent"},
	{"node", []string{"node/*", "wgtun", "wgtun/*", "coordinator/protocol", "acl"}, []string{"modernc.org/sqlite", "github.com/go-git/go-git"},
		"the agent knows the protocol, not the coordinator"},
	{"node/*", []string{"node/*", "wgtun", "wgtun/*", "coordinator/protocol", "acl"}, []string{"modernc.org/sqlite", "github.com/go-git/go-git"},
		"the agent knows the protocol, not the coordinator"},
	{"picket", []string{"node", "node/localapi", "node/statefile", "wgtun/userspace", "coordinator/protocol"}, []string{"modernc.org/sqlite", "github.com/go-git/go-git", "github.com/urfave/cli/v2"},
		"a node inside a program is the agent's, without a second copy of anything; only programs import it"},
	{"picket/examples/*", []string{"picket"}, nil, "an example shows what other people's programs can do"},
	{"cmd/*", []string{"*"}, nil, ""},
	{"integration", []string{"*"}, nil, ""},
	{"integration/*", []string{"*"}, nil, ""},
}

// homes names the only folders that may import a third party directly.
var homes = map[string][]string{
	"golang.zx2c4.com/wireguard/wgctrl": {"cmd/picket"},
	"golang.zx2c4.com/wireguard":        {"wgtun", "wgtun/*", "integration/*"}, // the latter to compare with it bare
	"gvisor.dev/gvisor":                 {"wgtun/userspace"},
	"github.com/vishvananda/netlink":    {"node/hostnet", "integration/*"},
	"github.com/google/nftables":        {"node/hostnet", "integration/*"},
	"github.com/ti-mo/conntrack":        {"node/hostnet", "integration/*"},
	"github.com/urfave/cli/v2":          {"cmd/*"},
	"github.com/go-git/go-git":          {"coordinator/gitpolicy"},
	"modernc.org/sqlite":                {"coordinator/sqlite"},
	"github.com/hashicorp/memberlist":   {"coordinator/cluster"},
	"github.com/tailscale/hujson":       {"acl", "acl/*", "coordinator/dnsfile"},
	"github.com/miekg/dns":              {"node/dns", "integration/*"},
	"github.com/godbus/dbus":            {"node/dns"},
	"github.com/rogpeppe/go-internal":   {"cmd/picket"},
}

type pkg struct {
	path    string // relative to the module, "" for the root
	imports []string
	deps    []string
}

func TestImportRules(t *testing.T) {
	for _, p := range packages(t) {
		r, ok := ruleOf(p.path)
		if !ok {
			t.Errorf("package %s has no import rule: add it to the table here and to ARCHITECTURE.md", p.path)
			continue
		}
		for _, i := range p.imports {
			ours, isOurs := strings.CutPrefix(i, module+"/")
			switch {
			case isOurs && strings.HasPrefix(ours, "cmd/") && !strings.HasPrefix(p.path, "cmd/"):
				t.Errorf("%s imports %s: nobody imports cmd", p.path, ours)
			case isOurs && !anyFits(r.may, ours) && !(strings.HasPrefix(ours, p.path+"/internal")):
				t.Errorf("%s imports %s: %s", p.path, ours, r.why)
			}
			for party, where := range homes {
				if hasPathPrefix(i, party) && !moreSpecific(i, party) && !anyFits(where, p.path) {
					t.Errorf("%s imports %s, whose one home is %s", p.path, i, strings.Join(where, ", "))
				}
			}
		}
		for _, d := range p.deps {
			for _, n := range r.never {
				if hasPathPrefix(d, n) && !exempt(p.path, d) {
					t.Errorf("%s depends on %s (directly or through others): %s", p.path, d, r.why)
				}
			}
		}
	}
}

// TestImportRulesCatch shows that the checks above can fail.
func TestImportRulesCatch(t *testing.T) {
	r, _ := ruleOf("coordinator/web")
	if anyFits(r.may, "coordinator/sqlite") {
		t.Error("coordinator/web may import its sibling coordinator/sqlite")
	}
	r, _ = ruleOf("acl")
	if anyFits(r.may, "wgtun/key") {
		t.Error("acl may import wgtun/key")
	}
	r, _ = ruleOf("acl/review")
	if anyFits(r.may, "acl/migrate") || anyFits(r.may, "node") {
		t.Error("acl/review may import its sibling, or the agent")
	}
	r, _ = ruleOf("node")
	if anyFits(r.may, "coordinator") {
		t.Error("node may import the coordinator proper")
	}
}

// exempt holds what the standard library drags in where the rule means our own use.
func exempt(path, dep string) bool {
	// fmt needs os; acl may print but opens nothing (TestNoFiles checks its direct imports).
	return path == "acl" && dep == "os"
}

// TestNoFiles holds the pure packages to their direct imports: fmt may reach os, they may not.
func TestNoFiles(t *testing.T) {
	for _, p := range packages(t) {
		if p.path != "acl" && !strings.HasPrefix(p.path, "acl/") && p.path != "wgtun/packet" && p.path != "wgtun/key" {
			continue
		}
		for _, i := range p.imports {
			switch i {
			case "os", "io/fs", "net", "os/exec", "path/filepath", "syscall":
				t.Errorf("%s imports %s: it must know neither files nor network", p.path, i)
			}
		}
	}
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports ","}}|{{join .Deps ","}}`, "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		f := strings.Split(line, "|")
		path := strings.TrimPrefix(strings.TrimPrefix(f[0], module), "/")
		ps = append(ps, pkg{path, strings.Split(f[1], ","), strings.Split(f[2], ",")})
	}
	sort.Slice(ps, func(i, j int) bool { return ps[i].path < ps[j].path })
	return ps
}

func ruleOf(path string) (rule, bool) {
	for _, r := range rules {
		if fits(r.folder, path) {
			return r, true
		}
	}
	return rule{}, false
}

func anyFits(patterns []string, path string) bool {
	for _, p := range patterns {
		if fits(p, path) {
			return true
		}
	}
	return false
}

func fits(pattern, path string) bool {
	if pattern == "*" {
		return true
	}
	if folder, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(path, folder+"/")
	}
	return pattern == path
}

func hasPathPrefix(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// moreSpecific reports that another home names i more exactly than party does.
func moreSpecific(i, party string) bool {
	for other := range homes {
		if len(other) > len(party) && hasPathPrefix(i, other) {
			return true
		}
	}
	return false
}
