package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// Tailscale and Headscale read the names of fields without regard to case, and take null for absent.

var topFields = []string{
	"groups", "hosts", "ipsets", "tagOwners", "postures", "defaultSrcPosture", "acls", "grants", "denies", "ssh", "nodeAttrs", "autoApprovers",
	"tests", "sshTests", "derpMap", "disableIPv4", "OneCGNATRoute", "randomizeClientPort", "extraDNSRecords",
}

// sectionFields are the fields of the entries of a section.
var sectionFields = map[string][]string{
	"acls":      {"action", "proto", "src", "dst", "users", "ports", "srcPosture"},
	"grants":    {"src", "dst", "ip", "app", "via", "srcPosture"},
	"ssh":       {"action", "src", "dst", "users", "checkPeriod", "acceptEnv", "recorder", "enforceRecorder", "srcPosture"},
	"nodeAttrs": {"target", "attr", "app", "ipPool"},
	"tests":     {"src", "user", "proto", "accept", "allow", "deny", "srcPostureAttrs"},
	"sshTests":  {"src", "dst", "accept", "check", "deny", "srcPostureAttrs"},
}

// formerFields have another name today.
var formerFields = map[string]map[string]string{
	"acls":  {"users": "src", "ports": "dst"},
	"tests": {"allow": "accept", "user": "src"},
}

// named are the sections whose members are names. Which of two members of one name counts is not to be guessed.
var named = []string{"groups", "hosts", "ipsets", "tagOwners", "postures"}

func (im *importer) renameFields() {
	im.rename(im.root, topFields, nil)
	im.dropNulls(im.root)
	for section, fields := range sectionFields {
		for _, entry := range elements(member(im.root, section)) {
			im.rename(entry, fields, formerFields[section])
			im.dropNulls(entry)
		}
	}
	im.rename(member(im.root, "autoApprovers"), []string{"routes", "exitNode", "services"}, nil)
	im.dropNulls(member(im.root, "autoApprovers"))
	for _, section := range named {
		seen := map[string]bool{}
		for _, m := range object(member(im.root, section)) {
			if name := strings.ToLower(str(&m.Name)); seen[name] {
				im.fail(&m.Name, "keep one of the two; names that differ only in case are refused as well", "`%s` is given twice in `%s`", visible(str(&m.Name)), section)
			} else {
				seen[name] = true
			}
		}
	}
}

// rename gives the members of an object their names of today. Two of one name are refused: one would be read over.
func (im *importer) rename(v *hujson.Value, fields []string, former map[string]string) {
	seen := map[string]bool{}
	members := object(v)
	for i := range members {
		name := &members[i].Name
		was := str(name)
		now := was
		if k := slices.IndexFunc(fields, func(f string) bool { return strings.EqualFold(f, was) && len(f) == len(was) }); k >= 0 {
			now = fields[k]
		}
		if today, ok := former[now]; ok {
			now = today
		}
		if seen[now] {
			im.fail(name, "keep one of the two", "`%s` is given twice", visible(now))
			continue
		}
		seen[now] = true
		if now != was {
			setStr(name, now)
			im.note(Rewrite, name, "`%s` is written `%s`", was, now)
		}
	}
}

// dropNulls takes out members that are null, which is absent there and an error here.
func (im *importer) dropNulls(v *hujson.Value) {
	for i := len(object(v)) - 1; i >= 0; i-- {
		if m := &object(v)[i]; isNull(&m.Value) {
			im.note(Rewrite, &m.Name, "`%s` is null and taken out", str(&m.Name))
			removeMember(v, i, "")
		}
	}
}

// expandGroups puts the members of groups in place of groups in them. A circle adds nothing.
func (im *importer) expandGroups() {
	groups := map[string]*hujson.Value{}
	members := object(member(im.root, "groups"))
	for i := range members {
		groups[str(&members[i].Name)] = &members[i].Value
	}
	original := map[string][]string{}
	for name, v := range groups {
		original[name] = strs(v)
	}
	for i := range members {
		name, v := str(&members[i].Name), &members[i].Value
		if _, isList := v.Value.(*hujson.Array); !isList {
			continue
		}
		for k := len(elements(v)) - 1; k >= 0; k-- {
			e := elements(v)[k]
			inner := str(e)
			if !strings.HasPrefix(inner, "group:") {
				continue
			}
			users := flatten(inner, original, map[string]bool{name: true})
			users = slices.DeleteFunc(users, func(u string) bool { return slices.Contains(original[name], u) })
			im.note(Rewrite, e, "`%s` in `%s` is written out: %s", inner, name, orNobody(users))
			replace(v, k, users)
		}
	}
}

func orNobody(users []string) string {
	if len(users) == 0 {
		return "it adds nobody"
	}
	return strings.Join(users, ", ")
}

// flatten lists the users of a group and of the groups in it, each once.
func flatten(name string, groups map[string][]string, seen map[string]bool) (out []string) {
	if seen[name] {
		return nil
	}
	seen[name] = true
	for _, m := range groups[name] {
		switch {
		case !strings.HasPrefix(m, "group:"):
			out = append(out, m)
		default:
			out = append(out, flatten(m, groups, seen)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// nameUsers makes logins of Headscale's user names.
func (im *importer) nameUsers() {
	if im.Origin != Headscale {
		return
	}
	for _, m := range object(member(im.root, "groups")) {
		im.users(elements(&m.Value), true)
	}
	for _, m := range object(member(im.root, "tagOwners")) {
		im.users(elements(&m.Value), true)
	}
	approvers := member(im.root, "autoApprovers")
	for _, m := range object(member(approvers, "routes")) {
		im.users(elements(&m.Value), true)
	}
	im.users(elements(member(approvers, "exitNode")), true)
	for _, section := range []string{"acls", "grants", "ssh", "tests", "sshTests", "nodeAttrs"} {
		for _, e := range elements(member(im.root, section)) {
			switch section {
			case "tests", "sshTests":
				if src := member(e, "src"); src != nil {
					im.users([]*hujson.Value{src}, false)
				}
			case "nodeAttrs":
				im.users(elements(member(e, "target")), false)
			default:
				im.users(elements(member(e, "src")), false)
			}
			if section == "acls" || section == "tests" {
				for _, list := range []string{"dst", "accept", "deny"} {
					im.usersWithPorts(elements(member(e, list)))
				}
			} else {
				im.users(elements(member(e, "dst")), false)
			}
		}
	}
}

func (im *importer) users(list []*hujson.Value, onlyUsers bool) {
	for _, v := range list {
		s := str(v)
		if login, ok := im.login(v, s, onlyUsers); ok && login != s {
			setStr(v, login)
		}
	}
}

func (im *importer) usersWithPorts(list []*hujson.Value) {
	for _, v := range list {
		s := str(v)
		at := strings.LastIndexByte(s, ':')
		if at < 0 {
			continue
		}
		if login, ok := im.login(v, s[:at], false); ok && login != s[:at] {
			setStr(v, login+s[at:])
		}
	}
}

// login is what a user's name is here; false where s is something else. Headscale wrote names bare until version 0.24, and since then with
// an @ at the end where they have none inside.
func (im *importer) login(v *hujson.Value, s string, onlyUsers bool) (string, bool) {
	s = strings.TrimSpace(s)
	name, ending := strings.CutSuffix(s, "@")
	switch {
	case s == "" || s == "*" || strings.Contains(s, ":") || strings.Contains(name, "@"):
		return s, false
	case !ending && !onlyUsers && !im.isBareUser(s):
		return s, false
	case im.Domain == "":
		im.fail(v, "give the domain of its login, as in --domain example.com", "`%s` is a user name of Headscale, and Picket names users by their login", visible(s))
		return s, false
	}
	login := name + "@" + im.Domain
	im.note(Rewrite, v, "user `%s` is written `%s`", s, login)
	return login, true
}

// isBareUser reports whether a word in a rule can only be a user: it is no host and no address.
func (im *importer) isBareUser(s string) bool {
	if member(member(im.root, "hosts"), s) != nil || strings.ContainsAny(s, "/[]") {
		return false
	}
	return strings.Trim(s, "0123456789.") != ""
}

// refs is "acls[3]".
func refs(section string, i int) string { return fmt.Sprintf("%s[%d]", section, i) }
