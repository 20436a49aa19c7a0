// Package acl reads the policy language: text in, verdicts out. It touches no file, network or clock.
//
// # Text
//
// A policy is one HuJSON object (JSON with comments and trailing commas) of at most 1 MiB, nested at most 64 deep. Parse refuses what two
// readers could read differently: duplicate names, names that differ only in case, unknown fields, broken UTF-8 or escapes, text after
// the object, control characters that reorder or hide text. What a later version will know is refused as well, and never ignored: a
// restriction that is read over would allow too much.
//
//	{
//	  "groups":    {"group:eng": ["alice@example.com", "group:oncall"], "group:oncall": ["bob@example.com"]},
//	  "hosts":     {"db": "100.64.0.7", "office": "10.20.0.0/16"},
//	  "tagOwners": {"tag:web": ["group:eng"], "tag:ci": ["tag:web", "autogroup:member"], "tag:prod": []},
//	  "acls":      [{"action": "accept", "src": ["group:eng"], "dst": ["tag:web:80,443", "db:5432"], "proto": "tcp"}],
//	  "grants":    [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}],
//	  "tests":     [{"src": "bob@example.com", "accept": ["tag:web:443"], "deny": ["tag:prod:22"]}],
//	}
//
// # Selectors
//
//	"*"                every node and every approved route; as src never what lies behind an exit node
//	alice@example.com  the untagged nodes of that login; logins are plain ASCII and read in lower case, as Tailscale does
//	group:NAME         the untagged nodes of its users; groups may hold groups
//	tag:NAME           nodes with that tag, which tagOwners must define
//	autogroup:member   untagged nodes of users
//	autogroup:tagged   tagged nodes
//	autogroup:self     in dst only: untagged nodes of the source's owner; src may then be users, groups and autogroup:member
//	HOST               a name from hosts
//	address, CIDR      nodes with an address in it (then all of the node's addresses), and addresses in it behind approved routes
//
// A tagged node has no owner: users, groups and autogroup:member never name it. Group, tag and host names are case-sensitive, and two
// that differ only in case are refused.
//
// # Ports
//
// dst in acls is "SELECTOR:PORTS" and ip in grants is "PORTS" or "PROTO:PORTS", where PORTS is "*", "22", "80,443" or "8000-8080".
// Without a protocol the ports are those of TCP and UDP, and ICMP passes too; with one, only that protocol does. "icmp" is ICMP in IPv4
// and ICMPv6 in IPv6. Any other IP protocol passes only where a rule names it, by name or number; those without ports take "*".
//
// # Meaning
//
// Everything not allowed is refused. No policy, no rules, an empty section: nothing passes. An empty src, dst or ip is an error. A flow
// goes between addresses of one family. Rules only add up; their order decides nothing but which one is named in explanations.
package acl
