package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// The language of assertions, as in Tailscale's policy file (https://tailscale.com/docs/features/device-posture, read 2026):
//
//	node:os == 'macos'               text, in single quotes; it holds no quote, backslash or control character
//	node:osVersion >= '13.4'         a version (node:osVersion, node:tsVersion), compared as compareVersions says
//	falcon:ztaScore >= 70            a number; < <= > >= are for versions and numbers
//	node:tsAutoUpdate == true        true or false; the attribute alone, `node:tsAutoUpdate`, means the same
//	ip:country NOT IN ['CA', 'US']   IN and NOT IN take a list of one type; words may be in lower case
//	custom:tier IS SET               and NOT SET
//
// Nothing but NOT SET holds for an attribute that a device lacks, not even != and NOT IN (R1). A value that the literal's type cannot read
// (a number that is none) and an empty one hold nothing at all: who reports nonsense is not thereby outside a list.

// assertion is one condition on one attribute. The zero assertion never holds.
type assertion struct {
	attribute string // "node:osVersion"
	op        operator
	typ       valueType // of values; 0 for IS SET and NOT SET
	values    []string  // one, or several with IN and NOT IN: sorted, each once, in canonical form
}

// operator of an assertion.
type operator uint8

const (
	opEqual operator = iota + 1
	opUnequal
	opIn
	opNotIn
	opIsSet
	opNotSet
	opLess
	opAtMost
	opMore
	opAtLeast
)

// operatorTexts are the operators as written. What begins like another comes first.
var operatorTexts = []struct {
	op   operator
	text string
}{
	{opEqual, "=="}, {opUnequal, "!="}, {opAtMost, "<="}, {opAtLeast, ">="}, {opLess, "<"}, {opMore, ">"},
	{opNotIn, "NOT IN"}, {opIn, "IN"}, {opIsSet, "IS SET"}, {opNotSet, "NOT SET"},
}

func (o operator) String() string {
	for _, t := range operatorTexts {
		if t.op == o {
			return t.text
		}
	}
	return "?"
}

func (o operator) takesList() bool  { return o == opIn || o == opNotIn }
func (o operator) takesValue() bool { return o != opIsSet && o != opNotSet }
func (o operator) orders() bool     { return o >= opLess }

// valueType of a literal, and of an attribute that is known to have one.
type valueType uint8

const (
	textValue valueType = iota + 1
	versionValue
	numberValue
	boolValue
)

// Bounds on an assertion, in bytes. Tailscale allows keys of 128 and values of 255.
const (
	maxAssertion = 4096
	maxAttribute = 128
	maxValue     = 255
)

// attributeKind is what is known of one attribute of the namespaces that are closed.
type attributeKind struct {
	name   string
	typ    valueType
	values []string // all that a device can report; nil for any
}

// knownAttributes are all of the namespaces node and ip.
var knownAttributes = []attributeKind{
	{"node:os", textValue, []string{"macos", "windows", "linux", "ios", "tvos", "android", "freebsd", "openbsd", "illumos", "js"}},
	{"node:osVersion", versionValue, nil},
	{"node:tsAutoUpdate", boolValue, nil},
	{"node:tsReleaseTrack", textValue, []string{"stable", "unstable"}},
	{"node:tsStateEncrypted", boolValue, nil},
	{"node:tsVersion", versionValue, nil},
	{"ip:country", textValue, nil},
	{"ip:publicAddress", textValue, nil},
}

// namespaces of attributes: those two, the operator's own, and what Tailscale's integrations write.
var namespaces = []string{"node", "ip", "custom", "falcon", "fleet", "huntress", "intune", "iru", "jamfPro", "kandji", "kolide", "sentinelOne"}

// typeOf returns the type and, when they are known, the values of an attribute; 0 when it may have any.
func typeOf(attribute string) (valueType, []string) {
	for _, k := range knownAttributes {
		if k.name == attribute {
			return k.typ, k.values
		}
	}
	return 0, nil
}

// mistake is what is wrong with a part of the text; the zero mistake is none.
type mistake struct{ problem, hint string }

func mistakef(hint, format string, args ...any) mistake {
	return mistake{fmt.Sprintf(format, args...), hint}
}

// attribute checks the name of an attribute. A misspelt one would be set on no device, and NOT SET would hold for all: names that no
// device can have are refused where that is known.
func (g *suggester) attribute(s string) mistake {
	namespace, name, ok := strings.Cut(s, ":")
	plain := func(c rune) bool { return isAlnum(c) || c == '_' || c == ':' }
	switch {
	case !ok || namespace == "" || name == "":
		return mistakef("write it as in `node:os`", "%s is not an attribute", quote(s))
	case len(s) > maxAttribute:
		return mistakef("", "the attribute %s is longer than %d bytes", quote(s), maxAttribute)
	case strings.ContainsFunc(s, func(c rune) bool { return !plain(c) }):
		return mistakef("names hold letters, digits, underscores and colons", "%s is not an attribute", quote(s))
	case !slices.Contains(namespaces, namespace):
		hint := "known are " + strings.Join(namespaces, ", ")
		if near := g.nearest(namespace, namespaces); near != "" {
			hint = fmt.Sprintf("did you mean %s?", quote(near+":"+name))
		}
		return mistakef(hint, "unknown namespace %s of attributes", quote(namespace))
	case namespace != "node" && namespace != "ip":
		return mistake{}
	}
	if typ, _ := typeOf(s); typ != 0 {
		return mistake{}
	}
	var names []string
	for _, k := range knownAttributes {
		if strings.HasPrefix(k.name, namespace+":") {
			names = append(names, k.name)
		}
	}
	hint := "known are " + strings.Join(names, ", ")
	if near := g.nearest(s, names); near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	return mistakef(hint, "unknown attribute %s", quote(s))
}

// assertion parses s in time linear in its length.
func (g *suggester) assertion(s string) (assertion, mistake) {
	if len(s) > maxAssertion {
		return assertion{}, mistakef("", "it is longer than %d bytes", maxAssertion)
	}
	a, m := g.parts(s)
	if m.problem != "" {
		return assertion{}, m
	}
	if len(a.String()) > maxAssertion {
		return assertion{}, mistakef("", "it is longer than %d bytes when written out", maxAssertion)
	}
	return a, mistake{}
}

// parts reads attribute, operator and value.
func (g *suggester) parts(s string) (assertion, mistake) {
	rest := strings.TrimLeft(s, " \t")
	end := strings.IndexAny(rest, " \t=!<>'[]")
	if end < 0 {
		end = len(rest)
	}
	a := assertion{attribute: rest[:end]}
	rest = strings.Trim(rest[end:], " \t")
	if m := g.attribute(a.attribute); m.problem != "" {
		return assertion{}, m
	}
	if known, _ := typeOf(a.attribute); rest == "" && (known == 0 || known == boolValue) {
		a.op, a.typ, a.values = opEqual, boolValue, []string{"true"}
		return a, mistake{}
	} else if rest == "" {
		return assertion{}, mistakef("compare it, as in `node:os == 'linux'`", "%s is neither true nor false", quote(a.attribute))
	}
	op, rest, m := g.operator(rest)
	if m.problem != "" {
		return assertion{}, m
	}
	a.op = op
	if !op.takesValue() {
		if rest != "" {
			return assertion{}, mistakef(oneOnly, "%s stands after %s", quote(rest), op)
		}
		return a, mistake{}
	}
	if m := a.operand(rest); m.problem != "" {
		return assertion{}, m
	}
	return a, a.misfit()
}

const oneOnly = "a string holds one assertion; all strings of a posture must hold"

// operator reads the operator that s begins with.
func (g *suggester) operator(s string) (operator, string, mistake) {
	for _, t := range operatorTexts {
		if rest, ok := cutOperator(s, t.text); ok {
			return t.op, rest, mistake{}
		}
	}
	end := strings.IndexAny(s, "'[ \t0123456789")
	if end < 0 {
		end = len(s)
	}
	word, hint := s[:end], "known are ==, !=, <, <=, >, >=, IN, NOT IN, IS SET, NOT SET"
	if word == "" {
		return 0, "", mistakef(hint, "there is no operator before %s", quote(s))
	}
	if fields := strings.Fields(s); len(fields) > 1 && strings.EqualFold(fields[0]+fields[1], "ISNOT") {
		return 0, "", mistakef("write `NOT SET`, or != before a value", "unknown operator %s", quote(word+" "+fields[1]))
	}
	meant := foreignOperators[strings.ToUpper(word)]
	if meant == "" {
		texts := make([]string, len(operatorTexts))
		for i, t := range operatorTexts {
			texts[i] = t.text
		}
		meant = g.nearest(word, texts)
	}
	if meant != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(meant))
	}
	return 0, "", mistakef(hint, "unknown operator %s", quote(word))
}

// foreignOperators are how other languages write the operators.
var foreignOperators = map[string]string{"=": "==", "===": "==", "=>": ">=", "=<": "<=", "<>": "!=", "~=": "!=", "!==": "!=", "EQ": "==", "NE": "!=",
	"IS": "==", "NOT": "NOT IN", "SET": "IS SET", "UNSET": "NOT SET", "EXISTS": "IS SET"}

// cutOperator cuts op, in capitals or not and with any space between its words, from s, and the space behind it.
func cutOperator(s, op string) (string, bool) {
	for i, word := range strings.Fields(op) {
		trimmed := strings.TrimLeft(s, " \t")
		if i > 0 && trimmed == s || len(trimmed) < len(word) || !strings.EqualFold(trimmed[:len(word)], word) {
			return "", false
		}
		s = trimmed[len(word):]
	}
	if isLetter(rune(op[0])) {
		if s != "" && !strings.ContainsRune(" \t[", rune(s[0])) {
			return "", false
		}
	} else if s != "" && strings.ContainsRune("=<>!~", rune(s[0])) {
		return "", false
	}
	return strings.TrimLeft(s, " \t"), true
}

// operand reads the literal, or the list of them, behind the operator.
func (a *assertion) operand(s string) mistake {
	inner, opened := strings.CutPrefix(s, "[")
	switch {
	case s == "":
		return mistakef("", "%s has nothing to compare with", a.op)
	case opened && !a.op.takesList():
		return mistakef("write `IN` or `NOT IN`", "%s takes one value, not a list", a.op)
	case !opened && a.op.takesList():
		return mistakef("put it in brackets, as in `['a', 'b']`", "%s takes a list", a.op)
	case !opened:
		rest, m := a.literal(s)
		if m.problem == "" && rest != "" {
			m = mistakef(oneOnly, "%s stands after the value", quote(rest))
		}
		return m
	}
	for rest := strings.TrimLeft(inner, " \t"); ; {
		if rest == "" || rest[0] == ']' || rest[0] == ',' {
			return mistakef("name a value", "the list of %s lacks a value", a.op)
		}
		var m mistake
		if rest, m = a.literal(rest); m.problem != "" {
			return m
		}
		if rest == "" {
			return mistakef("end it with `]`", "the list of %s does not end", a.op)
		}
		if rest == "]" {
			slices.Sort(a.values)
			a.values = slices.Compact(a.values)
			return mistake{}
		}
		next, ok := strings.CutPrefix(rest, ",")
		if !ok {
			return mistakef("separate values by commas and end the list with `]`", "%s stands in the list of %s", quote(rest), a.op)
		}
		rest = strings.TrimLeft(next, " \t")
	}
}

// literal reads one literal from the head of s and returns what follows it.
func (a *assertion) literal(s string) (rest string, m mistake) {
	var typ valueType
	var value string
	known, _ := typeOf(a.attribute)
	if s[0] == '\'' {
		end := strings.IndexByte(s[1:], '\'')
		if end < 0 {
			return "", mistakef("", "the text %s has no closing quote", quote(s))
		}
		typ, value, rest = textValue, s[1:1+end], strings.TrimLeft(s[end+2:], " \t")
		if m = badText(value); m.problem != "" {
			return "", m
		}
		if known == versionValue {
			typ = versionValue
		}
	} else {
		end := strings.IndexAny(s, " \t,]")
		if end < 0 {
			end = len(s)
		}
		word := s[:end]
		rest = strings.TrimLeft(s[end:], " \t")
		var ok bool
		if typ, value, ok = bareValue(word); !ok {
			return "", unquoted(word)
		}
		if known == versionValue {
			return "", mistakef(fmt.Sprintf("write %s", quote("'"+word+"'")), "%s is a version, and versions stand in quotes", quote(a.attribute))
		}
	}
	if a.typ != 0 && a.typ != typ {
		return "", mistakef("give all the same type", "the list of %s mixes types", a.op)
	}
	a.typ, a.values = typ, append(a.values, value)
	return rest, mistake{}
}

// bareValue reads a literal without quotes in canonical form.
func bareValue(word string) (valueType, string, bool) {
	if word == "true" || word == "false" {
		return boolValue, word, true
	}
	n, ok := parseNumber(word)
	return numberValue, n.String(), ok
}

// badText says what is wrong with the text between quotes.
func badText(s string) mistake {
	switch {
	case s == "":
		return mistakef("to ask whether there is a value write `IS SET` or `NOT SET`", "the text is empty, and no device's attribute is")
	case len(s) > maxValue:
		return mistakef("", "the text %s is longer than %d bytes", quote(s), maxValue)
	case strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }):
		return mistakef("", "the text %s holds a backslash or control character", quote(s))
	}
	return mistake{}
}

func unquoted(word string) mistake {
	bare := strings.Trim(word, "\"`")
	hint := fmt.Sprintf("text stands in single quotes, did you mean %s?", quote("'"+bare+"'"))
	if lower := strings.ToLower(bare); lower == "true" || lower == "false" {
		hint = fmt.Sprintf("did you mean %s?", quote(lower))
	} else if strings.ContainsAny(bare, "'") || bare == "" || !isLetter(rune(bare[0])) {
		hint = "text stands in single quotes; numbers are written as in `-12.5`"
	}
	return mistakef(hint, "%s is neither text, a number, true nor false", quote(word))
}

// misfit says where the operator, the literal and the attribute do not go together.
func (a assertion) misfit() mistake {
	known, _ := typeOf(a.attribute)
	value := quote(a.values[0])
	switch {
	case known == boolValue && a.typ != boolValue:
		return mistakef("write `true` or `false` without quotes", "%s is true or false, never %s", quote(a.attribute), value)
	case known != 0 && known != a.typ:
		return mistakef("write text in single quotes", "%s is text, never %s", quote(a.attribute), value)
	case a.op.orders() && a.typ != versionValue && a.typ != numberValue:
		return mistakef("use == or IN", "%s orders numbers and versions (`node:osVersion`, `node:tsVersion`) only, not %s", a.op, value)
	case a.typ == versionValue:
		for _, v := range a.values {
			if v[0] < '0' || v[0] > '9' {
				return mistakef("versions begin with a digit", "%s is not a version", quote(v))
			}
		}
	}
	return mistake{}
}

// doubt says which value no device can have: == with it never holds and != always. The hint is the value probably meant.
func (g *suggester) doubt(a assertion) mistake {
	_, values := typeOf(a.attribute)
	for _, v := range a.values {
		country := a.attribute == "ip:country"
		if country && (len(v) != 2 || strings.Trim(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "") {
			return mistakef("countries are two capital letters, as in `DE`", "no device has the country %s", quote(v))
		}
		if values == nil || slices.Contains(values, v) {
			continue
		}
		hint := "known are " + strings.Join(values, ", ")
		if near := cmp.Or(foreignValues[strings.ToLower(v)], g.nearest(v, values)); near != "" {
			hint = fmt.Sprintf("did you mean %s?", quote(near))
		}
		return mistakef(hint, "no device has the %s %s", a.attribute, quote(v))
	}
	return mistake{}
}

// foreignValues are other names of operating systems.
var foreignValues = map[string]string{"darwin": "macos", "mac": "macos", "osx": "macos", "win": "windows", "ipados": "ios"}

// String is the assertion in its one form, which parses to an equal assertion.
func (a assertion) String() string {
	if !a.op.takesValue() {
		return a.attribute + " " + a.op.String()
	}
	texts := make([]string, len(a.values))
	for i, v := range a.values {
		texts[i] = v
		if a.typ == textValue || a.typ == versionValue {
			texts[i] = "'" + v + "'"
		}
	}
	operand := strings.Join(texts, ", ")
	if a.op.takesList() {
		operand = "[" + operand + "]"
	}
	return a.attribute + " " + a.op.String() + " " + operand
}

// holds reports whether a device with these attributes ("namespace:name" to text; "true" and "false", decimal numbers) satisfies a.
func (a assertion) holds(attributes map[string]string) bool {
	have, set := attributes[a.attribute]
	switch {
	case a.op == opNotSet:
		return !set
	case have == "":
		return false
	case a.op == opIsSet:
		return true
	}
	anyEqual := false
	for _, want := range a.values {
		order, ok := a.typ.compare(have, want)
		if !ok {
			return false
		}
		switch {
		case a.op == opLess && order < 0, a.op == opAtMost && order <= 0, a.op == opMore && order > 0, a.op == opAtLeast && order >= 0:
			return true
		}
		anyEqual = anyEqual || order == 0
	}
	switch a.op {
	case opEqual, opIn:
		return anyEqual
	case opUnequal, opNotIn:
		return len(a.values) > 0 && !anyEqual
	}
	return false
}

// compare orders a device's value and a literal; false when the value is not of the type.
func (t valueType) compare(have, want string) (order int, ok bool) {
	switch t {
	case textValue:
		return cmp.Compare(have, want), true
	case boolValue:
		return cmp.Compare(have, want), have == "true" || have == "false"
	case numberValue:
		h, okHave := parseNumber(have)
		w, okWant := parseNumber(want)
		return h.compare(w), okHave && okWant
	case versionValue:
		return compareVersions(have, want), have[0] >= '0' && have[0] <= '9' && len(have) <= maxValue
	}
	return 0, false
}

// compareVersions orders versions as Tailscale does (tailscale.com/util/cmpver, a simpler form of Debian's order): runs that are not
// digits as text, runs of digits as numbers, in turn. A missing run is "" or 0, so 13.4 is before 13.4.0 and not equal to it.
//
// Tailscale also compares what does not begin with a digit, and then any word is later than any version. Here a word never matches.
func compareVersions(v, w string) int {
	for v != "" || w != "" {
		var a, b string
		a, v = cutRun(v, false)
		b, w = cutRun(w, false)
		if c := strings.Compare(a, b); c != 0 {
			return c
		}
		a, v = cutRun(v, true)
		b, w = cutRun(w, true)
		if c := compareDigits(a, b); c != 0 {
			return c
		}
	}
	return 0
}

// cutRun cuts the longest prefix of s that is all ASCII digits, or has none.
func cutRun(s string, digits bool) (run, rest string) {
	i := strings.IndexFunc(s, func(c rune) bool { return (c >= '0' && c <= '9') != digits })
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// compareDigits orders decimal numbers of any length; no digits are 0.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// number is an exact decimal: floats would make large numbers equal that are not.
type number struct {
	negative        bool
	whole, fraction string // digits without needless zeros; whole "" is 0
}

// maxNumber bounds the text of a number.
const maxNumber = 40

// parseNumber reads "-12.50": no plus, no exponent, no bare point.
func parseNumber(s string) (number, bool) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(digits, ".")
	bad := func(s string) bool { return s == "" || strings.Trim(s, "0123456789") != "" }
	if len(s) > maxNumber || bad(whole) || point && bad(fraction) {
		return number{}, false
	}
	n := number{negative, strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")}
	n.negative = n.negative && n.whole+n.fraction != ""
	return n, true
}

func (n number) String() string {
	s := cmp.Or(n.whole, "0")
	if n.fraction != "" {
		s += "." + n.fraction
	}
	if n.negative {
		s = "-" + s
	}
	return s
}

func (n number) compare(o number) int {
	if n.negative != o.negative {
		if n.negative {
			return -1
		}
		return 1
	}
	c := cmp.Or(compareDigits(n.whole, o.whole), strings.Compare(n.fraction, o.fraction))
	if n.negative {
		return -c
	}
	return c
}
