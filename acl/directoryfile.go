package acl

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tailscale/hujson"
)

// Bounds on a directory file. The syntax tree takes some twenty times the text.
const (
	maxDirectoryText = 32 << 20
	maxNodeName      = 253 // bytes; that of a domain name (RFC 1035 section 2.3.4)
)

// directoryReader reads a directory file with the reader of policies, so that both refuse the same (R28) in the same words.
type directoryReader struct {
	reader
	dir       Directory
	users     map[UserID]int     // where each is listed: offset
	nodes     map[NodeID]int     // where each stands
	names     map[string]int     // of nodes, in lower case
	addresses map[netip.Addr]int // where each is given
	owners    map[UserID]NodeID  // of nodes, to add those that users does not list
	ordered   []UserID           // keys of owners in the file's order
}

// ParseDirectory reads a directory file: who and what exists, for questions about a policy without a coordinator. It is plain JSON of at
// most 32 MiB:
//
//	{
//	  "users": [{"name": "alice@example.com", "role": "admin"}],
//	  "nodes": [{
//	    "name": "web-1", "user": "alice@example.com", "tags": ["tag:web"], "addresses": ["100.64.0.7", "fd7a::7"],
//	    "routes": ["10.33.0.0/16"], "attributes": {"node:os": "linux", "custom:managed": true}
//	  }]
//	}
//
// A user's id is the name in lower case. A node's is its "id" where it has one, else made of its name. A user that only a node names is
// added, without a role. A node with neither user nor tags is nobody's. Attributes become the texts that postures compare. Overlay stays
// empty. On failure the error is an Errors holding every mistake.
func ParseDirectory(text []byte) (*Directory, error) {
	root, bad := parseDirectoryText(text)
	if bad != nil {
		return nil, bad
	}
	r := &directoryReader{
		reader: reader{src: newSource(text), pol: Deny()},
		users:  map[UserID]int{}, nodes: map[NodeID]int{}, names: map[string]int{}, addresses: map[netip.Addr]int{}, owners: map[UserID]NodeID{},
	}
	r.object(root, "the directory", []field{{"users", r.userList}, {"nodes", r.nodeList}})
	if bad := r.failed(r.src); bad != nil {
		return nil, bad
	}
	for _, id := range r.ordered {
		if _, listed := r.users[id]; !listed {
			r.dir.Users = append(r.dir.Users, User{ID: id, Login: string(id)})
		}
	}
	return &r.dir, nil
}

// parseDirectoryText checks the bounds and returns the syntax tree of what must be plain JSON.
func parseDirectoryText(text []byte) (*hujson.Value, Errors) {
	if len(text) > maxDirectoryText {
		return nil, Errors{{Severity: SeverityError, Message: fmt.Sprintf("the directory has %d bytes: at most %d (32 MiB) are read", len(text), maxDirectoryText)}}
	}
	if at, message, hint := scan(text); message != "" {
		pos := newSource(text).at(at)
		return nil, Errors{{SeverityError, pos.line, pos.column, message, hint}}
	}
	v, err := hujson.Parse(text)
	if err != nil {
		d := syntaxError(err)
		if strings.Contains(d.Hint, "policy") { // it is about policies
			d.Hint = ""
		}
		return nil, Errors{d}
	}
	if v.IsStandard() {
		return &v, nil
	}
	pos := newSource(text).at(notStandard(text))
	return nil, Errors{{SeverityError, pos.line, pos.column, "syntax error, a comment or a comma too many", "a directory is plain JSON, without comments and trailing commas"}}
}

// notStandard returns the offset of what HuJSON has and JSON has not.
func notStandard(text []byte) int {
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	err := d.SkipValue()
	if err == nil { // it stands behind the value
		_, err = d.ReadToken()
	}
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return min(int(syntax.ByteOffset), len(text))
	}
	return 0
}

// where is what to say of an offset.
func (r *directoryReader) where(at int) string { return fmt.Sprintf("line %d", r.src.at(at).line) }

func (r *directoryReader) userList(v *hujson.Value) {
	elems, _ := r.array(v, quote("users"))
	for i := range elems {
		r.user(&elems[i], fmt.Sprintf("users[%d]", i))
	}
}

func (r *directoryReader) user(v *hujson.Value, what string) {
	var u User
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"name", func(v *hujson.Value) { seen["name"] = true; u.ID, _ = r.userName(v, what+".name") }},
		{"role", func(v *hujson.Value) { u.Role = r.role(v, what+".role") }},
	})
	if isObject {
		r.require(v, what, seen, "name")
	}
	if u.ID == "" {
		return
	}
	if first, twice := r.users[u.ID]; twice {
		r.err(v.StartOffset, "logins are read in lower case; keep one", "user %s is given twice, first on %s", quote(string(u.ID)), r.where(first))
		return
	}
	r.users[u.ID] = v.StartOffset
	u.Login = string(u.ID)
	r.dir.Users = append(r.dir.Users, u)
}

// userName reads a user's name, which is a login in most networks; what policies cannot name is accepted all the same.
func (r *directoryReader) userName(v *hujson.Value, what string) (UserID, bool) {
	s, ok := r.text(v, what)
	if !ok {
		return "", false
	}
	plain := func(c rune) bool { return c > ' ' && c < 0x7f && !strings.ContainsRune(`":*/\,[]()<>;`, c) }
	if s == "" || len(s) > maxName || strings.ContainsFunc(s, func(c rune) bool { return !plain(c) }) {
		r.err(v.StartOffset, "users are named by their login, `alice@example.com`, in plain ASCII", "%s is not the name of a user", quote(s))
		return "", false
	}
	return UserID(foldLogin(s)), true
}

// role reads a user's role: "member", or the end of an autogroup of roles.
func (r *directoryReader) role(v *hujson.Value, what string) string {
	names := []string{"member"}
	for _, a := range autogroups {
		if a.kind == kindRole {
			names = append(names, strings.TrimPrefix(a.name, "autogroup:"))
		}
	}
	s, ok := r.text(v, what)
	switch {
	case !ok || s == "" || slices.Contains(names, s):
		return s
	}
	hint := "known are " + strings.Join(names, ", ")
	if near := r.nearest(s, names); near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	r.err(v.StartOffset, hint, "unknown role %s", quote(s))
	return ""
}

func (r *directoryReader) nodeList(v *hujson.Value) {
	elems, _ := r.array(v, quote("nodes"))
	for i := range elems {
		r.node(&elems[i], fmt.Sprintf("nodes[%d]", i))
	}
}

func (r *directoryReader) node(v *hujson.Value, what string) {
	var n Node
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"id", func(v *hujson.Value) { n.ID = r.nodeID(v, what+".id") }},
		{"name", func(v *hujson.Value) { seen["name"] = true; n.Name = r.nodeName(v, what+".name") }},
		{"user", func(v *hujson.Value) { n.Owner = r.owner(v, what+".user") }},
		{"tags", func(v *hujson.Value) { n.Tags = r.nodeTags(v, what+".tags") }},
		{"addresses", func(v *hujson.Value) { n.Addresses = r.nodeAddresses(v, what+".addresses") }},
		{"routes", func(v *hujson.Value) { n.Routes = r.nodeRoutes(v, what+".routes") }},
		{"attributes", func(v *hujson.Value) { n.Attributes = r.nodeAttributes(v, what+".attributes") }},
	})
	if isObject {
		r.require(v, what, seen, "name")
	}
	if n.Name == "" || !r.placeNode(&n, v.StartOffset) {
		return
	}
	if _, known := r.owners[n.Owner]; !known && n.Owner != "" {
		r.owners[n.Owner] = n.ID
		r.ordered = append(r.ordered, n.Owner)
	}
	r.dir.Nodes = append(r.dir.Nodes, n)
}

// placeNode gives n an id where it has none, and refuses a name or id that another node has.
func (r *directoryReader) placeNode(n *Node, at int) bool {
	folded := foldLogin(n.Name)
	if first, twice := r.names[folded]; twice {
		r.err(at, "names are read without regard to case; each node needs its own", "node %s is given twice, first on %s", quote(n.Name), r.where(first))
		return false
	}
	r.names[folded] = at
	if n.ID == "" {
		n.ID = idFromName(folded)
	}
	if first, twice := r.nodes[n.ID]; twice {
		r.err(at, "", "node %s has the id of the node on %s", quote(n.Name), r.where(first))
		return false
	}
	r.nodes[n.ID] = at
	return true
}

// idFromName makes an id of [a-z0-9], at most 64: the name itself where it is one, else a hash of it.
func idFromName(name string) NodeID {
	if plainID(name) {
		return NodeID(name)
	}
	sum := sha256.Sum256([]byte(name))
	return NodeID(hex.EncodeToString(sum[:]))
}

func plainID(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

func (r *directoryReader) nodeID(v *hujson.Value, what string) NodeID {
	s, ok := r.text(v, what)
	if ok && !plainID(s) {
		r.err(v.StartOffset, "ids are 1 to 64 letters a-z and digits; without one the name serves", "%s is not the id of a node", quote(s))
		return ""
	}
	return NodeID(s)
}

// nodeName reads a node's name. It need not be a DNS label: nothing but people reads it here.
func (r *directoryReader) nodeName(v *hujson.Value, what string) string {
	s, ok := r.text(v, what)
	if !ok {
		return ""
	}
	at, _ := hidden([]byte(s))
	if s == "" || len(s) > maxNodeName || at >= 0 || strings.ContainsAny(s, "\n\t\r") || strings.TrimSpace(s) != s {
		r.err(v.StartOffset, fmt.Sprintf("names have 1 to %d bytes that can be shown", maxNodeName), "%s is not the name of a node", quote(s))
		return ""
	}
	return s
}

// owner reads a node's user; "" is nobody.
func (r *directoryReader) owner(v *hujson.Value, what string) UserID {
	if lit, ok := v.Value.(hujson.Literal); ok && string(lit) == `""` {
		return ""
	}
	id, _ := r.userName(v, what)
	return id
}

func (r *directoryReader) nodeTags(v *hujson.Value, what string) (tags []string) {
	r.eachText(v, what, func(s string, at int) {
		rest, ok := strings.CutPrefix(s, "tag:")
		if !ok {
			r.err(at, fmt.Sprintf("did you mean %s?", quote("tag:"+lastPart(s))), "%s is not a tag", quote(s))
		} else if problem := badName(rest, "tag:"); problem != "" {
			r.err(at, "", "%s is not a tag: %s", quote(s), problem)
		} else if !slices.Contains(tags, s) {
			tags = append(tags, s)
		}
	})
	return tags
}

// eachText calls each for the strings of an array.
func (r *directoryReader) eachText(v *hujson.Value, what string, each func(s string, at int)) {
	elems, _ := r.array(v, what)
	for i := range elems {
		if s, ok := r.text(&elems[i], "an element of "+what); ok {
			each(s, elems[i].StartOffset)
		}
	}
}

// nodeAddresses reads addresses in their one form (R34). An address that two nodes have would be neither's.
func (r *directoryReader) nodeAddresses(v *hujson.Value, what string) (out []netip.Addr) {
	r.eachText(v, what, func(s string, at int) {
		a, err := netip.ParseAddr(s)
		switch {
		case strings.Contains(s, "%"):
			r.err(at, "leave the zone out", "%s has a zone", quote(s))
		case err != nil:
			hint := ""
			if p, err := netip.ParsePrefix(s); err == nil {
				hint = fmt.Sprintf("did you mean %s?", quote(p.Addr().String()))
			}
			r.err(at, hint, "%s is not an address", quote(s))
		case a.Is4In6():
			r.err(at, fmt.Sprintf("did you mean %s?", quote(a.Unmap().String())), "%s is an IPv4 address dressed as IPv6", quote(s))
		case a.IsUnspecified() || a.IsMulticast():
			r.err(at, "", "%s is no node's address", quote(s))
		default:
			if first, twice := r.addresses[a]; twice {
				r.err(at, "an address is one node's", "address %s is given twice, first on %s", quote(s), r.where(first))
				return
			}
			r.addresses[a] = at
			out = append(out, a)
		}
	})
	return out
}

// nodeRoutes reads prefixes in their one form (R34). A route to everything makes an exit node.
func (r *directoryReader) nodeRoutes(v *hujson.Value, what string) (out []netip.Prefix) {
	r.eachText(v, what, func(s string, at int) {
		p, err := netip.ParsePrefix(s)
		hint := ""
		if a, bare := netip.ParseAddr(s); bare == nil && plainAddr(a) {
			hint = fmt.Sprintf("did you mean %s?", quote(fmt.Sprintf("%s/%d", a, a.BitLen())))
		}
		switch {
		case err != nil:
			r.err(at, hint, "%s is not a network such as `10.33.0.0/16`", quote(s))
		case p.Addr().Is4In6():
			r.err(at, ipv4Hint(p), "%s is an IPv4 network dressed as IPv6", quote(s))
		case p != p.Masked():
			r.err(at, fmt.Sprintf("did you mean %s?", quote(p.Masked().String())), "%s has bits set behind its mask", quote(s))
		case !slices.Contains(out, p):
			out = append(out, p)
		}
	})
	return out
}

// nodeAttributes reads what a device is like. Any attribute may be there, since devices report what policies do not ask for.
func (r *directoryReader) nodeAttributes(v *hujson.Value, what string) map[string]string {
	members, _ := r.members(v, what)
	out := make(map[string]string, len(members))
	for _, m := range members {
		if value, ok := r.attributeValue(m); ok {
			out[m.name] = value
		}
	}
	r.refuseCaseVariants(members)
	return out
}

func (r *directoryReader) attributeValue(m member) (string, bool) {
	switch m.value.Value.Kind() {
	case '"':
		return r.text(m.value, quote(m.name))
	case 't', 'f', '0':
		lit := string(m.value.Value.(hujson.Literal))
		if _, value, ok := bareValue(lit); ok {
			return value, true
		}
		r.err(m.value.StartOffset, fmt.Sprintf("write it in decimal, in at most %d digits", maxNumber-2), "%s is not a number that attributes have", quote(lit))
	default:
		r.err(m.value.StartOffset, "", "%s must be a string, a number, true or false, not %s", quote(m.name), kindName(m.value))
	}
	return "", false
}
