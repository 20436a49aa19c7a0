package protocol

import (
	"errors"
	"fmt"
	"time"

	"picket.internal/acl"
)

// Paths for programs that ask about policies. Each needs a token of the scope policy:read, as "Authorization: Bearer TOKEN" (RFC 6750
// section 2.1); a token that is not taken is answered with status 401 and CodeToken.
const (
	PathPolicy          = "/picket/v1/policy"           // GET: PolicyInForce
	PathPolicyDirectory = "/picket/v1/policy/directory" // GET: a directory file, as acl.ParseDirectory reads it
	PathPolicyImpact    = "/picket/v1/policy/impact"    // POST PolicyText: Impact; holds the request up to ImpactHold
)

// Bounds of what those paths take and give, in bytes.
const (
	MaxPolicy    = 1 << 20               // a policy's text; acl.Parse reads no more
	MaxPolicyAsk = MaxPolicy*4/3 + 1<<10 // PolicyText: its text in base64
	MaxPolicyGet = 8 << 20               // PolicyInForce and Impact; a text of nothing but escapes grows sixfold
	MaxDirectory = 32 << 20              // acl.ParseDirectory reads no more
)

// ImpactHold is how long it may take to count the live flows and to judge them by another policy.
const ImpactHold = 30 * time.Second

// PolicyText is a policy to be judged, without putting it in force.
type PolicyText struct {
	Text []byte `json:"text"`
}

func (p *PolicyText) check() error { return sized("policy", p.Text, 0, MaxPolicy) }

// PolicyInForce is the policy that the network follows.
type PolicyInForce struct {
	Text       string    `json:"text"`
	Commit     string    `json:"commit,omitempty"` // full id; empty for a plain file
	Generation uint64    `json:"generation"`       // of the change that put it in force; 0: there never was a policy, and nothing may pass
	Since      time.Time `json:"since,omitzero"`
}

func (p *PolicyInForce) check() error {
	return first(sized("policy", []byte(p.Text), 0, MaxPolicy), texts(maxText, p.Commit))
}

// Impact is what a policy would take from the network as it is now.
type Impact struct {
	Live int `json:"live"` // flows that the policy in force allows, each counted once
	Cut  int `json:"cut"`  // of them, those that the other policy does not allow
	// Cuts sums them up, the most first; at most MaxCuts.
	Cuts []CutFlows `json:"cuts"`
	// Concerns is the one node or person at an end of every flow in Cut; empty when there is none such.
	Concerns string `json:"concerns,omitempty"`
	// Emptied are the groups that rules of the policy in force name and that nobody would be in any more.
	Emptied []EmptiedGroup `json:"emptied"`
	// Unknown are the nodes that may have flows which are not counted, and Truncated those that told a part of theirs only; by name.
	Unknown   []string `json:"unknown"`
	Truncated []string `json:"truncated"`
}

// CutFlows are flows between the same identities, by the same rule of the policy in force.
type CutFlows struct {
	Src   string `json:"src"` // the tags of a node, a group of its owner that rules name, its owner, or an address
	Dst   string `json:"dst"`
	Ports string `json:"ports"` // "tcp 443"
	Rule  string `json:"rule"`  // "grants[0], line 3"
	Flows int    `json:"flows"`
}

func (f CutFlows) String() string {
	flows := "flows"
	if f.Flows == 1 {
		flows = "flow"
	}
	return fmt.Sprintf("%s <- %s %s (%s): %d %s", f.Dst, f.Src, f.Ports, f.Rule, f.Flows, flows)
}

// EmptiedGroup is a group with the people who were in it.
type EmptiedGroup struct {
	Group  string   `json:"group"`
	People []string `json:"people"` // at most MaxEmptied
	Count  int      `json:"count"`
}

// Bounds of an Impact, which is stored and shown.
const (
	MaxCuts    = 50
	MaxEmptied = 50
)

func (i *Impact) check() error {
	if i.Live < 0 || i.Cut < 0 || i.Cut > i.Live || len(i.Cuts) > MaxCuts {
		return errors.New("a number out of range")
	}
	for _, c := range i.Cuts {
		if err := texts(maxText*16, c.Src, c.Dst, c.Ports, c.Rule); err != nil || c.Flows < 0 {
			return first(err, errors.New("a number out of range"))
		}
	}
	return nil
}

// maxProblemErrors bounds Problem.Errors: acl reports at most 100, and one that counts the others.
const maxProblemErrors = 101

func checkDiagnostics(all []acl.Diagnostic) error {
	if len(all) > maxProblemErrors {
		return fmt.Errorf("%d errors", len(all))
	}
	for _, d := range all {
		if err := texts(4*maxText, string(d.Severity), d.Message, d.Hint); err != nil {
			return err
		}
	}
	return nil
}
