package acl

// What Tailscale, or a later Picket, knows and this version does not. It is refused by name: who brings such a file must not believe
// that it is obeyed, and half of a policy protects less than it says. Values say what the name is for.

var laterSections = map[string]string{
	"ssh":                 "rules for SSH logins",
	"sshTests":            "tests of SSH rules",
	"nodeAttrs":           "attributes given to nodes",
	"postures":            "device posture conditions",
	"defaultSrcPosture":   "device posture demanded of every source",
	"ipsets":              "named sets of addresses",
	"autoApprovers":       "approval of routes and exit nodes by policy",
	"derpMap":             "the choice of relays",
	"disableIPv4":         "a network setting of Tailscale",
	"OneCGNATRoute":       "a network setting of Tailscale",
	"randomizeClientPort": "a network setting of Tailscale",
	"extraDNSRecords":     "additional names",
	"denies":              "rules that refuse whatever grants allow",
}

var laterInACL = map[string]string{
	"srcPosture": "a device posture demanded of the source",
}

var laterInGrant = map[string]string{
	"via":        "the router a flow takes",
	"srcPosture": "a device posture demanded of the source",
	"app":        "application capabilities",
	"mfa":        "how recent a second factor must be",
	"session":    "how recent the login must be",
	"risk":       "the highest risk allowed",
	"hours":      "the hours in which a grant holds",
	"until":      "when a grant ends",
	"approval":   "just-in-time approval",
	"offlineFor": "how long a grant outlives contact with the coordinator",
	"log":        "what is logged of a grant",
}

var laterInTest = map[string]string{
	"srcPostureAttrs": "the device posture a test assumes",
}

// laterAutogroups are those of Tailscale that this version does not know.
var laterAutogroups = map[string]string{
	"autogroup:internet":      "everything beyond exit nodes",
	"autogroup:shared":        "users of shared nodes",
	"autogroup:nonroot":       "SSH users but root",
	"autogroup:owner":         "users by role",
	"autogroup:admin":         "users by role",
	"autogroup:it-admin":      "users by role",
	"autogroup:network-admin": "users by role",
	"autogroup:billing-admin": "users by role",
	"autogroup:auditor":       "users by role",
	"autogroup:danger-all":    "everybody, outsiders too",
}

// laterSelectors are prefixes of selectors that this version does not know.
var laterSelectors = map[string]string{
	"ipset:":   "named sets of addresses",
	"user:":    "users by domain",
	"host:":    "hosts by prefix",
	"posture:": "device posture conditions",
	"svc:":     "services",
}

const unsupportedHint = "remove it; what this version cannot enforce is refused rather than ignored"
