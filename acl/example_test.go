package acl_test

import (
	"fmt"
	"net/netip"
	"time"

	"picket.internal/acl"
)

func Example() {
	policy, err := acl.Parse([]byte(`{
		"groups": {"group:eng": ["alice@example.com"]},
		"tagOwners": {"tag:db": ["group:eng"]},
		// Engineers reach the database, and nothing else on its host.
		"grants": [{"src": ["group:eng"], "dst": ["tag:db"], "ip": ["tcp:5432"]}],
	}`))
	if err != nil {
		fmt.Println(err) // every mistake, a line each
		return
	}
	laptop, db := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	compiled, err := acl.Compile(policy, &acl.Directory{
		Users: []acl.User{{ID: "u1", Login: "alice@example.com"}},
		Nodes: []acl.Node{
			{ID: "n1", Name: "laptop", Owner: "u1", Addresses: []netip.Addr{laptop}},
			{ID: "n2", Name: "db", Tags: []string{"tag:db"}, Addresses: []netip.Addr{db}},
		},
	}, []byte("the network's salt"))
	if err != nil {
		fmt.Println(err)
		return
	}
	view, _ := compiled.View("n1") // what the laptop's map holds
	rules := view.Ruleset()
	for _, port := range []uint16{5432, 22} {
		flow := acl.Flow{Src: laptop, Dst: db, Proto: acl.TCP, Port: port}
		fmt.Println(rules.Explain(flow, time.Now()))
	}
	// Output:
	// grants[0], line 5 lets n1 reach n2 on tcp 5432
	// no rule lets n1 reach n2 on tcp 22; grants[0], line 5 allows only tcp 5432
}

func ExampleParse() {
	_, err := acl.Parse([]byte(`{
	"groups": {"group:engineering": ["alice@example.com"]},
	"grants": [{"src": ["group:enginering"], "dst": ["*"], "ip": ["22-21"]}],
	"acl": [],
}`))
	fmt.Println(err)
	// Output:
	// line 3, column 22: unknown group `group:enginering`: did you mean `group:engineering`, line 2?
	// line 3, column 64: `22-21`: the range `22-21` runs backwards: did you mean `21-22`?
	// line 4, column 2: unknown field `acl` in the policy: did you mean `acls`?
}
