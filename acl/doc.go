// Package acl reads the policy language: text in, verdicts out. It touches no file, network or clock.
//
// # Text
//
// A policy is one HuJSON object (JSON with comments and trailing commas) of at most 1 MiB, nested at most 64 deep. Parse refuses what two
// readers could read differently: duplicate names, names that differ only in case, unknown fields, broken UTF-8 or escapes, text after
// the object, control characters that reorder or hide text. What multiplies (ipsets, postures, rules, tests) is bounded, and refused beyond.
//
//	{
//	  "groups":    {"group:eng": ["alice@example.com"], "group:oncall": ["bob@example.com"]},
//	  "hosts":     {"db": "100.64.0.7", "office": "10.20.0.0/16"},
//	  "ipsets":    {"ipset:office": ["add office", "remove 10.20.9.0/24", "add 10.30.0.1-10.30.0.9"]},
//	  "tagOwners": {"tag:web": ["group:eng"], "tag:ci": ["tag:web", "autogroup:member"], "tag:router": []},
//	  "postures":  {"posture:mac": ["node:os == 'macos'", "node:osVersion >= '13.4'"], "posture:ours": ["custom:managed"]},
//	  "defaultSrcPosture": ["posture:ours"],
//	  "acls":      [{"action": "accept", "src": ["group:eng"], "dst": ["tag:web:80,443", "db:5432"], "proto": "tcp"}],
//	  "grants":    [
//	    {"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"], "srcPosture": ["posture:mac", "posture:ours"]},
//	    {"src": ["group:eng"], "dst": ["ipset:office"], "ip": ["tcp:443"], "via": ["tag:router"], "until": "2027-12-31T18:00Z", "log": "all"},
//	    {"src": ["group:oncall"], "dst": ["db"], "ip": ["tcp:22"], "mfa": "15m", "approval": {"by": ["group:eng"], "for": "1h"}},
//	  ],
//	  "denies":    [{"src": ["*"], "dst": ["db"], "ip": ["tcp:23"], "reason": "no telnet", "until": "2027-12-31T18:00Z"}],
//	  "ssh":       [{"action": "check", "src": ["group:eng"], "dst": ["tag:web"], "users": ["autogroup:nonroot"], "checkPeriod": "1h"}],
//	  "nodeAttrs": [{"target": ["*"], "attr": ["funnel"]}],
//	  "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:router"]}, "exitNode": []},
//	  "tests":     [{"src": "alice@example.com", "srcPostureAttrs": {"custom:managed": true}, "accept": ["tag:web:443"], "deny": ["tag:ci:22"]}],
//	  "sshTests":  [{"src": "alice@example.com", "dst": ["tag:web"], "check": ["deploy"], "deny": ["root"]}],
//	}
//
// docs/policy.md explains every field to who writes one. Settings of Tailscale's network (derpMap, disableIPv4, OneCGNATRoute,
// randomizeClientPort, extraDNSRecords), nodeAttrs and ssh are checked, and warned of as being without effect.
//
// # Selectors
//
//	"*"                   every node and every approved route; as src never what lies behind an exit node
//	alice@example.com     the untagged nodes of that login; logins are plain ASCII and read in lower case, as Tailscale does
//	user:*@example.com    the untagged nodes of every login of that domain
//	group:NAME            the untagged nodes of its users; groups hold users alone
//	tag:NAME              nodes with that tag, which tagOwners must define
//	autogroup:member      untagged nodes of users
//	autogroup:tagged      tagged nodes
//	autogroup:ROLE        untagged nodes of users with the role: owner, admin, network-admin, it-admin, billing-admin, auditor
//	autogroup:self        in dst: untagged nodes of the source's owner, which src must then have
//	autogroup:internet    in dst: public addresses beyond exit nodes
//	autogroup:shared      in src: nobody, for no node is shared
//	autogroup:danger-all  in src: everybody, and what lies beyond exit nodes
//	HOST, host:HOST       a name from hosts
//	address, CIDR         that address, or addresses in it: nodes' own, and those behind a subnet router. It is no other address of the node
//	ipset:NAME            the addresses that the operations of ipsets come to
//	svc:NAME              in dst: nobody, for there are no services
//
// A tagged node has no owner: what names users never names it. Names are case-sensitive, and two that differ only in case are refused. An
// exit node carries autogroup:internet, "*" and danger-all, and no network that is written out.
//
// # Ports
//
// dst in acls is "SELECTOR:PORTS", PORTS being "*" or a list of ports and ranges, "22", "80,443", "8000-8080"; ip in grants is "PORTS" or
// "PROTO:PORTS" with one port or range in each element. Port 0 is refused. Without a protocol the ports are those of TCP and UDP, and ICMP
// passes too; with one, only that protocol does. "icmp" is ICMP in IPv4 and ICMPv6 in IPv6. Any other IP protocol passes only where a rule
// names it, by name or number; those without ports take "*".
//
// # Meaning
//
// Everything not allowed is refused. No policy, no rules, an empty section, an empty list: nothing passes. A flow goes between addresses of
// one family. Rules only add up; their order decides nothing but which one is named in explanations. A deny beats them all, until it ends;
// what names an address in a deny names the node that has it, at all its addresses.
//
// A grant narrows itself: via to what lies behind routes of routers with one of the tags; srcPosture (of an acl too, and defaultSrcPosture
// where it is absent) to nodes that meet one of the postures, so never to what lies behind a router; until to the time before it; each other
// condition to when its fact holds. No fact is supplied yet, so a rule with one allows nothing (Restriction). app lets nothing pass: it is
// for the application at the destination to read. log changes no verdict.
package acl
