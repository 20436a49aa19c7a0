package web

import (
	"net/url"
	"strings"

	"picket.internal/coordinator"
)

// overviewPage is the data of "/": members see their own machines, administrators the network at a glance.
type overviewPage struct {
	Nodes       []coordinator.NodeView
	Online      int
	Quarantined int
	People      int
	Policy      *coordinator.PolicyStatus // administrators only
	Join        string
}

// overview relies on the coordinator to list only what the actor may see.
func (s *site) overview(v *visit) (reply, error) {
	nodes, err := s.api.Nodes(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	p := overviewPage{Nodes: nodes, Join: s.join}
	for _, n := range nodes {
		if n.Online {
			p.Online++
		}
		if n.Quarantined {
			p.Quarantined++
		}
	}
	if !v.isAdmin() {
		return page("mine", p), nil
	}
	users, err := s.api.Users(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	status, err := s.api.PolicyStatus(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	p.People, p.Policy = len(users), &status
	return page("overview", p), nil
}

func (s *site) nodesPage(v *visit) (reply, error) {
	nodes, err := s.api.Nodes(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	return page("nodes", nodes), nil
}

// node is the node the path names.
func (s *site) node(v *visit) (coordinator.NodeView, error) {
	return s.api.Node(v.Context(), v.actor(), v.PathValue("node"))
}

func (s *site) nodePage(v *visit) (reply, error) {
	n, err := s.node(v)
	if err != nil {
		return reply{}, err
	}
	return page("node", n), nil
}

// renameForm is the data of the page "rename".
type renameForm struct {
	Node  coordinator.NodeView
	Name  string // as typed
	Fault faults
}

func (s *site) renamePage(v *visit) (reply, error) {
	n, err := s.node(v)
	if err != nil {
		return reply{}, err
	}
	return page("rename", renameForm{Node: n, Name: n.Name}), nil
}

func (s *site) rename(v *visit) (reply, error) {
	n, err := s.node(v)
	if err != nil {
		return reply{}, err
	}
	name := strings.TrimSpace(v.PostFormValue("name"))
	change, err := s.api.RenameNode(v.Context(), v.actor(), string(n.ID), name)
	if e := correctable(err); e != nil {
		return formPage(statusFor(e), "rename", renameForm{Node: n, Name: clean(name, 64), Fault: faults{"name": e.Message}}), nil
	}
	return after(change, nodePath(n), err)
}

// confirmPage is the data of the page that asks once more before something is done. The question names the object, so that nobody
// confirms another one than he meant.
type confirmPage struct {
	Heading string
	Lines   []string
	Button  string
	Danger  bool
	Path    string // where the button posts
	Back    string
}

func (s *site) quarantinePage(v *visit) (reply, error) {
	return s.confirmNode(v, "quarantine", confirmPage{
		Heading: "Quarantine %s?", Button: "Quarantine", Danger: true,
		Lines: []string{
			"Every flow to and from it is cut at both ends, at once. It stays in the network, can reach nobody, and nobody can reach it.",
			"You can release it again; what the policy allows then works at once.",
		},
	})
}

func (s *site) releasePage(v *visit) (reply, error) {
	return s.confirmNode(v, "release", confirmPage{
		Heading: "Release %s?", Button: "Release",
		Lines: []string{"It gets back what the policy allows it, at once."},
	})
}

func (s *site) removeNodePage(v *visit) (reply, error) {
	return s.confirmNode(v, "remove", confirmPage{
		Heading: "Remove %s for good?", Button: "Remove", Danger: true,
		Lines: []string{
			"Every flow to and from it is cut at both ends, at once, and its keys are worth nothing any more.",
			"This cannot be taken back: to return, the machine has to join anew, and gets another address.",
		},
	})
}

// confirmNode fills in the node's name and addresses.
func (s *site) confirmNode(v *visit, action string, c confirmPage) (reply, error) {
	n, err := s.node(v)
	if err != nil {
		return reply{}, err
	}
	c.Heading = strings.Replace(c.Heading, "%s", clean(n.Name, 64), 1)
	c.Back, c.Path = nodePath(n), nodePath(n)+"/"+action
	return page("confirm", c), nil
}

func (s *site) quarantine(v *visit) (reply, error) {
	c, err := s.api.QuarantineNode(v.Context(), v.actor(), v.PathValue("node"), true)
	return after(c, "/nodes", err)
}

func (s *site) release(v *visit) (reply, error) {
	c, err := s.api.QuarantineNode(v.Context(), v.actor(), v.PathValue("node"), false)
	return after(c, "/nodes", err)
}

func (s *site) removeNode(v *visit) (reply, error) {
	c, err := s.api.RemoveNode(v.Context(), v.actor(), v.PathValue("node"))
	return after(c, "/nodes", err)
}

func nodePath(n coordinator.NodeView) string { return "/nodes/" + url.PathEscape(string(n.ID)) }
