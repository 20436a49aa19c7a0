package acl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// Settings of Tailscale's network that stand in its policy file. They allow and refuse nothing. They are read, so that people can bring
// their file as it is, and the policy's warnings say that Picket does not act on them; what is not of their form is an error all the same.

// settings are the fields of the policy that are such.
func (r *reader) settings() []field {
	return []field{
		{"derpMap", r.derpMap},
		{"disableIPv4", func(v *hujson.Value) { r.flagSetting(v, "disableIPv4") }},
		{"OneCGNATRoute", r.oneCGNATRoute},
		{"randomizeClientPort", func(v *hujson.Value) { r.flagSetting(v, "randomizeClientPort") }},
		{"extraDNSRecords", r.extraDNSRecords},
	}
}

func (r *reader) withoutEffect(v *hujson.Value, name string) {
	r.warn(v.StartOffset, "", "%s has no effect: it is a setting of Tailscale, and Picket does not act on it", quote(name))
}

// flagSetting reads one that is true or false. False is what Picket does anyway.
func (r *reader) flagSetting(v *hujson.Value, name string) {
	if on, ok := r.trueOrFalse(v, quote(name)); ok && on {
		r.withoutEffect(v, name)
	}
}

func (r *reader) trueOrFalse(v *hujson.Value, what string) (on, ok bool) {
	switch v.Value.Kind() {
	case 't':
		return true, true
	case 'f':
		return false, true
	}
	r.err(v.StartOffset, "", "%s must be true or false, not %s", what, kindName(v))
	return false, false
}

func (r *reader) oneCGNATRoute(v *hujson.Value) {
	s, ok := r.text(v, quote("OneCGNATRoute"))
	switch {
	case !ok || s == "":
	case s != "mac-always" && s != "mac-never":
		r.err(v.StartOffset, "it is `mac-always`, `mac-never` or empty", "`OneCGNATRoute` cannot be %s", quote(s))
	default:
		r.withoutEffect(v, "OneCGNATRoute")
	}
}

// derpMap reads Tailscale's relays, in the spelling of its documentation or of its clients.
func (r *reader) derpMap(v *hujson.Value) {
	const what = "`derpMap`"
	omit := func(v *hujson.Value) { r.trueOrFalse(v, what+".OmitDefaultRegions") }
	r.object(v, what, []field{{"Regions", r.derpRegions}, {"regions", r.derpRegions}, {"OmitDefaultRegions", omit}, {"omitDefaultRegions", omit}})
	r.withoutEffect(v, "derpMap")
}

// derpRegions reads regions by number; null takes one of Tailscale's own away.
func (r *reader) derpRegions(v *hujson.Value) {
	members, _ := r.members(v, "`derpMap`.Regions")
	for _, m := range members {
		n, err := strconv.ParseUint(m.name, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != m.name {
			r.err(m.at, "regions are numbered from 1", "%s is not the number of a region", quote(m.name))
		}
		if kind := m.value.Value.Kind(); kind != '{' && kind != 'n' {
			r.err(m.value.StartOffset, "", "region %s must be an object { … } or null, not %s", quote(m.name), kindName(m.value))
		}
		r.unambiguous(m.value, "region "+quote(m.name))
	}
}

// extraDNSRecords reads records of name, type and value.
func (r *reader) extraDNSRecords(v *hujson.Value) {
	elems, _ := r.array(v, quote("extraDNSRecords"))
	for i := range elems {
		what := fmt.Sprintf("extraDNSRecords[%d]", i)
		var fields []field
		for _, name := range []string{"name", "type", "value"} {
			read := func(v *hujson.Value) { r.text(v, what+"."+name) }
			fields = append(fields, field{name, read}, field{strings.ToUpper(name[:1]) + name[1:], read})
		}
		r.object(&elems[i], what, fields)
	}
	if len(elems) > 0 {
		r.withoutEffect(v, "extraDNSRecords")
	}
}
