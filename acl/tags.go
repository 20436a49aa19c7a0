package acl

import (
	"slices"

	"github.com/tailscale/hujson"
)

// tagOwners is one member of tagOwners: who may put the tag on nodes.
type tagOwners struct {
	at   int
	by   []selector // people
	tags []string
}

// HasTag reports whether the policy's tagOwners defines tag ("tag:db").
func (p *Policy) HasTag(tag string) bool { return p.tags[tag] != nil }

// OwnsTag reports whether login may put tag on a node: tagOwners names the login, its domain, one of its groups, autogroup:member, or a tag
// that the login owns. Administrators may use every tag that HasTag knows, whoever owns it; who has which role is not for the policy to say,
// so neither an empty list nor autogroup:admin and its like make anybody an owner here.
func (p *Policy) OwnsTag(login, tag string) bool {
	who := p.identify(nil, login, "")
	return p.ownedBy(tag, map[string]bool{}, func(o *tagOwners) bool { return slices.ContainsFunc(o.by, who.is) })
}

// TagOwnsTag reports whether nodes tagged owner may put tag on nodes: tagOwners names owner, directly or through another tag.
func (p *Policy) TagOwnsTag(owner, tag string) bool {
	return p.ownedBy(tag, map[string]bool{}, func(o *tagOwners) bool { return slices.Contains(o.tags, owner) })
}

// ownedBy reports whether tag, or a tag that owns it, has an owner that fits. Tags may own themselves and one another: seen ends circles.
func (p *Policy) ownedBy(tag string, seen map[string]bool, fits func(*tagOwners) bool) bool {
	o := p.tags[tag]
	if o == nil || seen[tag] {
		return false
	}
	seen[tag] = true
	return fits(o) || slices.ContainsFunc(o.tags, func(t string) bool { return p.ownedBy(t, seen, fits) })
}

// tagOwners reads the section, first the names: tags may be named before they are defined.
func (r *reader) tagOwners(v *hujson.Value) {
	members, _ := r.members(v, quote("tagOwners"))
	r.pol.tags = make(map[string]*tagOwners, len(members))
	members = slices.DeleteFunc(members, func(m member) bool {
		if !r.name(m, "tag:", "a tag") {
			return true
		}
		r.pol.tags[m.name] = &tagOwners{at: m.at}
		r.tagNames = append(r.tagNames, m.name)
		return false
	})
	r.refuseCaseVariants(members)
	for _, m := range members {
		elems, _ := r.array(m.value, quote(m.name))
		for i := range elems {
			r.tagOwner(r.pol.tags[m.name], m.name, &elems[i])
		}
	}
}

var owning = purpose{"cannot own a tag", "users, groups, tags, `autogroup:member` and roles such as `autogroup:admin` can", people}

func (r *reader) tagOwner(o *tagOwners, tag string, v *hujson.Value) {
	s, ok := r.text(v, "an owner of "+quote(tag))
	if !ok {
		return
	}
	switch sel, ok := r.identitySelector(s, v.StartOffset, inSrc, owning); {
	case !ok:
	case sel.kind == kindTag:
		o.tags = append(o.tags, sel.text)
	default:
		o.by = append(o.by, sel)
	}
}
