package node

import (
	"log/slog"
	"reflect"
	"testing"

	"picket.internal/node/hostnet"
)

// TestUserspace_cleansNothing: what is on the host is that of an agent with an interface, which may run beside.
func TestUserspace_cleansNothing(t *testing.T) {
	code := func(clean func(*slog.Logger)) uintptr { return reflect.ValueOf(clean).Pointer() }
	logger := slog.New(slog.DiscardHandler)
	if code(realReach(logger, Userspace).clean) == code(hostnet.Clean) {
		t.Error("a node without an interface takes back what is on the host")
	}
	if code(realReach(logger, "picket0").clean) != code(hostnet.Clean) {
		t.Error("a node with an interface takes nothing back")
	}
}
