package node

import (
	"log/slog"
	"net"
	"reflect"
	"testing"

	"picket.internal/node/hostnet"
)

// TestUserspace_joinsNoPeerToTheProxies: in an overlay without interface inbound flows come out at loopback, where the proxies are.
func TestUserspace_joinsNoPeerToTheProxies(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	service, socks5, http := listen(), listen(), listen()
	n := &Node{config: Config{SOCKS5: socks5, HTTPProxy: http}}
	o := &userspaceOverlay{proxies: n.proxies()}
	for _, l := range []net.Listener{socks5, http} {
		if c, err := o.dialLocal(t.Context(), "tcp", l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("a peer was joined to the proxy at %s", l.Addr())
		}
	}
	c, err := o.dialLocal(t.Context(), "tcp", service.Addr().String())
	if err != nil {
		t.Fatalf("a service: %v", err)
	}
	c.Close()
}

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
