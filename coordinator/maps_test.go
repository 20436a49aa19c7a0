package coordinator

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// Every field of a peer must count, or an old entry would be sent for a changed one.
func TestSamePeerKnowsEveryField(t *testing.T) {
	values := map[reflect.Type]any{
		reflect.TypeFor[acl.NodeID](): acl.NodeID("n"), reflect.TypeFor[acl.UserID](): acl.UserID("u"), reflect.TypeFor[string](): "s",
		reflect.TypeFor[[]netip.Addr](): []netip.Addr{{}}, reflect.TypeFor[[]netip.Prefix](): []netip.Prefix{{}},
		reflect.TypeFor[[]acl.RoleID](): []acl.RoleID{1}, reflect.TypeFor[[]string](): []string{"t"}, reflect.TypeFor[[]byte](): []byte{1},
		reflect.TypeFor[time.Time](): time.Unix(1, 0),
	}
	var walk func(t *testing.T, path []int, typ reflect.Type)
	walk = func(t *testing.T, path []int, typ reflect.Type) {
		for i := range typ.NumField() {
			f, at := typ.Field(i), append(append([]int{}, path...), i)
			if f.Anonymous {
				walk(t, at, f.Type)
				continue
			}
			var a, b protocol.Peer
			field := reflect.ValueOf(&b).Elem().FieldByIndex(at)
			switch v, ok := values[f.Type]; {
			case ok:
				field.Set(reflect.ValueOf(v))
			case f.Type.Kind() == reflect.Array:
				field.Index(0).SetUint(1)
			default:
				t.Fatalf("no value for the field %s of %s", f.Name, f.Type)
			}
			if samePeer(&a, &b) {
				t.Errorf("samePeer does not see a change of %s", f.Name)
			}
		}
	}
	walk(t, nil, reflect.TypeFor[protocol.Peer]())
}

// R30: news of a node that is not, or no longer, in the map that was sent stays unsaid.
func TestHintsOfStrangersStayUnsaid(t *testing.T) {
	c := &Coordinator{}
	c.hub.init()
	s := &Session{c: c, wake: make(chan struct{}, 1), news: map[acl.NodeID]struct{}{}}
	s.sent.current = &nodeMap{peers: []protocol.Peer{{Subject: acl.Subject{Node: "friend"}}}}
	s.tell("stranger")
	s.tell("friend")
	if got := s.takeHints(); len(got) != 1 || got[0].Node != "friend" {
		t.Errorf("hints %+v", got)
	}
}
