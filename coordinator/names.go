package coordinator

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"picket.internal/coordinator/protocol"
)

// escapes are terminal control sequences (ECMA-48 section 5.4): their letters are no part of a name.
var escapes = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|.)?")

// likeID matches what could be taken for a node id.
var likeID = regexp.MustCompile(`^n[0-9a-f]{16}$`)

// hostLabel makes a DNS label of what a host calls itself: its first label, in lower case, with everything else as single hyphens, at most
// 63 bytes; "node" when nothing is left.
func hostLabel(hostname string) string {
	s := escapes.ReplaceAllString(hostname, "")
	s, _, _ = strings.Cut(strings.Trim(strings.ToLower(s), ". \t\r\n"), ".")
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 63 {
			break
		}
	}
	label := strings.Trim(b.String(), "-")
	if label == "" || protocol.ReservedName(label) || likeID.MatchString(label) {
		return "node"
	}
	return label
}

// checkLabel refuses a name a person chose that is no DNS label (R20), or could be taken for something else.
func checkLabel(name string) error {
	if protocol.CheckName(name) != nil {
		return refuse(CodeInvalid, "%q is no name for a node: use 1 to 63 letters a-z, digits and hyphens, with no hyphen at either end", oneLine(name, 80))
	}
	if protocol.ReservedName(name) || likeID.MatchString(name) {
		return refuse(CodeInvalid, "%q would be taken for something else: choose another name", name)
	}
	return nil
}

// freeName is base, or base-2, base-3 and so on: the first that no living node has.
func (ch *change) freeName(base string) (string, error) {
	stem := base
	if len(stem) > 57 { // room for a hyphen and five digits
		stem = strings.TrimRight(stem[:57], "-")
	}
	var taken []string
	for _, b := range slices.Compact([]string{base, stem}) {
		names, err := ch.NodeNames(b)
		if err != nil {
			return "", err
		}
		taken = append(taken, names...)
	}
	slices.Sort(taken)
	has := func(s string) bool { _, ok := slices.BinarySearch(taken, s); return ok }
	name := base
	for i := 2; has(name); i++ {
		name = stem + "-" + strconv.Itoa(i)
	}
	return name, nil
}
