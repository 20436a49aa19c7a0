package node

import (
	"net"
	"testing"
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
