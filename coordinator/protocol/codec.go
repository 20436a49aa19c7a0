package protocol

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// ErrMalformed is wrapped by every refusal of bytes that are not of their form.
var ErrMalformed = errors.New("malformed message")

// Message is one message of the session.
type Message struct {
	Type string
	Body any // a value of the type that bodies names for Type; nil when this build does not know Type
}

// Resync is the body of TypeResync.
type Resync struct{}

// Logout is the body of TypeLogout.
type Logout struct{}

// bodies names the one body type of each message type.
var bodies = map[string]reflect.Type{
	TypeHello:     reflect.TypeFor[Hello](),
	TypeChallenge: reflect.TypeFor[Challenge](),
	TypeProof:     reflect.TypeFor[Proof](),
	TypeMap:       reflect.TypeFor[Map](),
	TypeHints:     reflect.TypeFor[Hints](),
	TypeLive:      reflect.TypeFor[Live](),
	TypeProblem:   reflect.TypeFor[Problem](),
	TypeReport:    reflect.TypeFor[Report](),
	TypeReceipt:   reflect.TypeFor[Receipt](),
	TypeResync:    reflect.TypeFor[Resync](),
	TypeEvidence:  reflect.TypeFor[Evidence](),
	TypeLogout:    reflect.TypeFor[Logout](),
	TypeAskFlows:  reflect.TypeFor[AskFlows](),
	TypeFlows:     reflect.TypeFor[Flows](),
	TypeSeek:      reflect.TypeFor[Seek](),
	TypeSought:    reflect.TypeFor[Sought](),
	TypeRelayPass: reflect.TypeFor[RelayPass](),
}

// maxType bounds a type's name, and maxDepth how deep JSON may nest: the deepest message of ours (a rule's port) has 8 levels,
// and what nests deeper than that can only be an attack or a field we would ignore.
const (
	maxType  = 32
	maxDepth = 32
)

// envelope is a frame as it travels.
type envelope struct {
	Type string         `json:"type"`
	Body jsontext.Value `json:"body"`
}

// wire is how every JSON text of this package is read and written. The library's own defaults do most of R28: duplicate
// names, invalid UTF-8 and trailing data are refused, and a case variant of a name is an unknown name.
var wire = jsonv1.FormatDurationAsNano(true)

// EncodeFrame makes the frame of one message. body is a value, or a pointer to a value, of the type that belongs to typ; anything else is
// an error, because it is a mistake of the caller. A frame larger than MaxServerFrame is an error.
func EncodeFrame(typ string, body any) ([]byte, error) {
	want, ok := bodies[typ]
	if !ok {
		return nil, fmt.Errorf("encode message: unknown type %q", typ)
	}
	v := reflect.ValueOf(body)
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if !v.IsValid() || v.Type() != want {
		return nil, fmt.Errorf("encode message: a %q has a body of %s, not %T", typ, want, body)
	}
	data, err := json.Marshal(v.Interface(), wire)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	frame, err := json.Marshal(envelope{typ, data}, wire)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	if len(frame) > MaxServerFrame {
		return nil, fmt.Errorf("encode %s: %d bytes are more than a frame may have (%d)", typ, len(frame), MaxServerFrame)
	}
	return frame, nil
}

// DecodeFrame reads one frame. The caller has bounded it to what the connection's state allows (MaxHelloFrame, MaxNodeFrame); DecodeFrame
// itself refuses more than MaxServerFrame. A type of a newer version gives a Message with a nil Body, which the reader ignores.
// Every error wraps ErrMalformed and quotes nothing of the frame.
func DecodeFrame(frame []byte) (Message, error) {
	if len(frame) > MaxServerFrame {
		return Message{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(frame))
	}
	var e envelope
	if err := unmarshal(frame, &e, "frame"); err != nil {
		return Message{}, err
	}
	if e.Type == "" || len(e.Type) > maxType {
		return Message{}, fmt.Errorf("%w: a frame without a proper type", ErrMalformed)
	}
	t, ok := bodies[e.Type]
	if !ok {
		return Message{Type: e.Type}, nil
	}
	if e.Body.Kind() != '{' {
		return Message{}, fmt.Errorf("%w: the body of a %s is not an object", ErrMalformed, e.Type)
	}
	v := reflect.New(t)
	if err := unmarshal(e.Body, v.Interface(), e.Type); err != nil {
		return Message{}, err
	}
	if c, ok := v.Interface().(checker); ok {
		if err := c.check(); err != nil {
			return Message{}, fmt.Errorf("%w: %s: %w", ErrMalformed, e.Type, err)
		}
	}
	return Message{Type: e.Type, Body: v.Elem().Interface()}, nil
}

// Marshal writes one of this package's types as JSON, for the HTTP bodies.
func Marshal(v any) ([]byte, error) { return json.Marshal(v, wire) }

// Unmarshal reads one of this package's types from JSON, for the HTTP bodies, and checks its bounds. Every error wraps ErrMalformed.
func Unmarshal(data []byte, v any) error {
	if err := unmarshal(data, v, "body"); err != nil {
		return err
	}
	if c, ok := v.(checker); ok {
		if err := c.check(); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	return nil
}

// unmarshal says where a text went wrong, but not what stood there: it may be an auth key.
func unmarshal(data []byte, v any, what string) error {
	if tooDeep(data) {
		return fmt.Errorf("%w: %s: nested deeper than %d", ErrMalformed, what, maxDepth)
	}
	err := json.Unmarshal(data, v, wire)
	if err == nil {
		return nil
	}
	var sem *json.SemanticError
	var syn *jsontext.SyntacticError
	switch {
	case errors.As(err, &sem) && sem.JSONPointer != "":
		return fmt.Errorf("%w: %s: the value at %q is not of its form", ErrMalformed, what, clip(string(sem.JSONPointer)))
	case errors.As(err, &syn):
		return fmt.Errorf("%w: %s: not proper JSON at byte %d", ErrMalformed, what, syn.ByteOffset)
	}
	return fmt.Errorf("%w: %s: not of its form", ErrMalformed, what)
}

// tooDeep reports nesting beyond maxDepth. It runs before the parser, so that no text decides how much stack is used; what is not
// JSON may be misjudged, and is refused either way.
func tooDeep(data []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}

// clip bounds a name that the other side chose before it goes into an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
