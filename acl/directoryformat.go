package acl

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/go-json-experiment/json"
)

// The form of a directory file, field by field as ParseDirectory reads it.
type (
	userForm struct {
		Name string `json:"name"`
		Role string `json:"role,omitzero"`
	}
	nodeForm struct {
		ID         NodeID            `json:"id,omitzero"`
		Name       string            `json:"name"`
		User       string            `json:"user,omitzero"`
		Tags       []string          `json:"tags,omitempty"`
		Addresses  []netip.Addr      `json:"addresses,omitempty"`
		Routes     []netip.Prefix    `json:"routes,omitempty"`
		Attributes map[string]string `json:"attributes,omitempty"`
	}
)

// FormatDirectory writes d as a directory file: users by login, nodes by name, a line each, so that two versions can be compared by line. A
// user's id and Overlay have no place in the form, and an owner that d does not list is left out. A node's id is written unless ParseDirectory
// would make the same of its name. The error is about text that is not UTF-8; what else ParseDirectory refuses is not looked at.
func FormatDirectory(d *Directory) ([]byte, error) {
	logins := make(map[UserID]string, len(d.Users))
	users := make([]any, 0, len(d.Users))
	for _, u := range slices.SortedFunc(slices.Values(d.Users), func(a, b User) int { return cmp.Compare(a.Login, b.Login) }) {
		logins[u.ID] = u.Login
		users = append(users, userForm{u.Login, u.Role})
	}
	nodes := make([]any, 0, len(d.Nodes))
	for _, n := range slices.SortedFunc(slices.Values(d.Nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) }) {
		f := nodeForm{n.ID, n.Name, logins[n.Owner], n.Tags, n.Addresses, n.Routes, n.Attributes}
		if f.ID == idFromName(foldLogin(n.Name)) {
			f.ID = ""
		}
		nodes = append(nodes, f)
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	if err := formatList(&b, "users", users); err != nil {
		return nil, err
	}
	b.WriteString(",\n")
	if err := formatList(&b, "nodes", nodes); err != nil {
		return nil, err
	}
	b.WriteString("\n}\n")
	return b.Bytes(), nil
}

// formatList writes a member whose value is an array, an element a line.
func formatList(b *bytes.Buffer, name string, list []any) error {
	fmt.Fprintf(b, "  %q: [", name)
	for i, v := range list {
		text, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("write directory: %s[%d]: %w", name, i, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		b.Write(text)
	}
	if len(list) > 0 {
		b.WriteString("\n  ")
	}
	b.WriteByte(']')
	return nil
}
