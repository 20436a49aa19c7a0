package acl

import (
	"bytes"

	"github.com/tailscale/hujson"
)

// Format lays a policy out in the one form that Tailscale's tools use as well: tabs, values of neighbouring lines in a column, lines longer
// than 80 columns broken up, comments where they were, and commas after the last elements of what is broken up. Only space and such commas
// change: names and values stay byte for byte, for an escape written out could be a character that hides text. The text must be HuJSON;
// whether it is a policy does not matter. On failure the error is an Errors with exactly one Diagnostic.
func Format(text []byte) ([]byte, error) {
	root, bad := parseText(bytes.Clone(text)) // the library writes into it
	if bad != nil {
		return nil, bad
	}
	var literals []hujson.ValueTrimmed
	eachLiteral(root, func(v *hujson.Value) { literals = append(literals, v.Value) })
	root.Format()
	eachLiteral(root, func(v *hujson.Value) {
		v.Value = literals[0]
		literals = literals[1:]
	})
	return root.Pack(), nil
}

// eachLiteral calls do for the literals of v in the file's order.
func eachLiteral(v *hujson.Value, do func(*hujson.Value)) {
	switch of := v.Value.(type) {
	case *hujson.Object:
		for i := range of.Members {
			eachLiteral(&of.Members[i].Name, do)
			eachLiteral(&of.Members[i].Value, do)
		}
	case *hujson.Array:
		for i := range of.Elements {
			eachLiteral(&of.Elements[i], do)
		}
	case hujson.Literal:
		do(v)
	}
}
