// Package dnsfile reads the file in which operators write what nodes are to be told about names.
//
// It is JSON with comments and trailing commas, one object:
//
//	{
//		"nameservers": ["192.0.2.53", "tls://dns.example@192.0.2.54"], // for everything else; leave out for each host's own
//		"split":       {"corp.example": ["10.33.0.53"]},              // who answers for a domain
//		"search":      ["corp.example"],                             // tried for short names
//		"records":     {
//			"git.corp.example": ["10.33.0.7"],                   // addresses
//			"www.corp.example": "web-1.picket.internal",         // another name
//		},
//	}
//
// A member that is not known, twice or of another form is refused with its line and column.
package dnsfile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/tailscale/hujson"

	"picket.internal/coordinator/protocol"
)

// MaxSize bounds a file, in bytes.
const MaxSize = 1 << 20

// file is the text's form.
type file struct {
	Nameservers []protocol.Nameserver            `json:"nameservers"`
	Split       map[string][]protocol.Nameserver `json:"split"`
	Search      []string                         `json:"search"`
	Records     map[string]target                `json:"records"`
}

// target is what a record says: a name, or addresses.
type target struct {
	cname     string
	addresses []netip.Addr
}

// UnmarshalJSONFrom reads a string as a name and a list as addresses.
func (t *target) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '"' {
		return json.UnmarshalDecode(d, &t.cname)
	}
	return json.UnmarshalDecode(d, &t.addresses)
}

// Parse reads a file's text. What it returns is within bounds, by protocol.DNS.Check; errors are for whoever wrote it.
func Parse(text []byte) (protocol.DNS, error) {
	if len(text) > MaxSize {
		return protocol.DNS{}, fmt.Errorf("the file has more than %d bytes", MaxSize)
	}
	standard, err := hujson.Standardize(slices.Clone(text)) // comments become blanks: places stay
	if err != nil {
		return protocol.DNS{}, errors.New(strings.TrimPrefix(err.Error(), "hujson: "))
	}
	var f file
	if err := json.Unmarshal(standard, &f, json.RejectUnknownMembers(true)); err != nil {
		return protocol.DNS{}, place(text, err)
	}
	d := protocol.DNS{Nameservers: f.Nameservers, Search: f.Search}
	for _, domain := range slices.Sorted(maps.Keys(f.Split)) {
		if len(f.Split[domain]) == 0 {
			return d, fmt.Errorf("the split domain %s has no nameserver: name one, or leave the domain out", strconv.Quote(domain))
		}
		d.Split = append(d.Split, protocol.Split{Domain: domain, Nameservers: f.Split[domain]})
	}
	for _, name := range slices.Sorted(maps.Keys(f.Records)) {
		d.Records = append(d.Records, protocol.Record{Name: name, Addresses: f.Records[name].addresses, CNAME: f.Records[name].cname})
	}
	return d, d.Check()
}

// place adds line and column to an error of the decoder.
func place(text []byte, err error) error {
	offset := int64(-1)
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	why := err.Error()
	switch {
	case errors.As(err, &semantic):
		offset = semantic.ByteOffset
		why = fmt.Sprintf("%s is not of its form", cmp.Or(string(semantic.JSONPointer), "the file"))
		if errors.Is(err, json.ErrUnknownName) {
			why = fmt.Sprintf("there is no such member as %s: those there are, are nameservers, split, search and records", semantic.JSONPointer)
		}
	case errors.As(err, &syntactic):
		offset = syntactic.ByteOffset
		if errors.Is(err, jsontext.ErrDuplicateName) {
			why = fmt.Sprintf("%s stands here twice", syntactic.JSONPointer)
		}
	}
	if offset < 0 || offset > int64(len(text)) {
		return errors.New(why)
	}
	before := string(text[:offset])
	return fmt.Errorf("line %d, column %d: %s", strings.Count(before, "\n")+1, len(before)-strings.LastIndex(before, "\n"), why)
}
