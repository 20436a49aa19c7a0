package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// toDB7 is the head of a datagram for the peer's port that echoes; an answer from there has the same.
const toDB7 = "\x00\x00\x00\x01\x64\x40\x00\x02\x00\x07"

// associateWith opens an association and names port as where datagrams will come from.
func associateWith(t *testing.T, address string, port uint16) (control net.Conn, relay netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00"+string([]byte{byte(port >> 8), byte(port)}))
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer[:6]) != "\x05\x00\x05\x00\x00\x01" {
		t.Fatalf("answered %x, %v", answer, err)
	}
	a, _ := netip.AddrFromSlice(answer[6:10])
	relay = netip.AddrPortFrom(a, uint16(answer[10])<<8|uint16(answer[11]))
	if !relay.Addr().IsLoopback() || relay.Port() == 0 {
		t.Fatalf("the relay is at %s", relay)
	}
	return c, relay
}

// sender is a socket that sends to the relay.
func sender(t *testing.T, relay netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// through sends a datagram and wants that answer.
func through(t *testing.T, c *net.UDPConn, send, want string) {
	t.Helper()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, maxDatagram)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("answered %.100q, %v, want %.100q", b[:n], err, want)
	}
}

// silent wants no datagram to be there. It is called when a later one was answered.
func silent(t *testing.T, c *net.UDPConn, what string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, maxDatagram)); err == nil {
		t.Errorf("%s: answered with %d bytes", what, n)
	}
}

func TestAssociate_carriesBothWays(t *testing.T) {
	_, address := serve(t, NewSOCKS5)
	control, relay := associateWith(t, address, 0)
	c := sender(t, relay)
	through(t, c, toDB7+"by address", toDB7+"by address")
	through(t, c, "\x00\x00\x00\x03\x02db\x00\x07by name", toDB7+"by name")
	long := strings.Repeat("x", 30_000)
	through(t, c, toDB7+long, toDB7+long)
	control.Close()
	ended := func() bool { // the relay is closed, and the kernel says so
		io.WriteString(c, toDB7+"after")
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		var timeout net.Error
		_, err := c.Read(make([]byte, 100))
		return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
	}
	for until := time.Now().Add(20 * time.Second); !ended(); {
		if time.Now().After(until) {
			t.Fatal("the association outlives its connection")
		}
	}
}

func TestAssociate_drops(t *testing.T) {
	n, address := serve(t, NewSOCKS5)
	_, relay := associateWith(t, address, 0)
	c := sender(t, relay)
	for what, datagram := range map[string]string{
		"a fragment":             "\x00\x00\x01\x01\x64\x40\x00\x02\x00\x07x",
		"reserved bits":          "\x00\x01\x00\x01\x64\x40\x00\x02\x00\x07x",
		"an empty one":           "",
		"a head cut short":       "\x00\x00\x00\x01\x64\x40\x00\x02\x00",
		"an unknown type":        "\x00\x00\x00\x02\x64\x40\x00\x02\x00\x07x",
		"the internet":           "\x00\x00\x00\x01\x01\x01\x01\x01\x00\x07x",
		"this host":              "\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x07x",
		"this host, mapped":      "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x07x",
		"a name of no peer":      "\x00\x00\x00\x03\x07example\x00\x07x",
		"a name that leads away": "\x00\x00\x00\x03\x04evil\x00\x07x",
		"port 0":                 "\x00\x00\x00\x01\x64\x40\x00\x02\x00\x00x",
	} {
		io.WriteString(c, datagram)
		through(t, c, toDB7+what, toDB7+what)
		silent(t, c, what)
	}
	for _, to := range n.dials() {
		if to != "100.64.0.2:7" {
			t.Errorf("dialled %s", to)
		}
	}
}

func TestAssociate_servesItsClientAlone(t *testing.T) {
	_, address := serve(t, NewSOCKS5)
	t.Run("the first port that sends", func(t *testing.T) {
		_, relay := associateWith(t, address, 0)
		first, other := sender(t, relay), sender(t, relay)
		io.WriteString(other, "no datagram of SOCKS5")
		through(t, first, toDB7+"x", toDB7+"x")
		io.WriteString(other, toDB7+"y")
		through(t, first, toDB7+"z", toDB7+"z")
		silent(t, other, "another port")
		silent(t, first, "what another port sent")
	})
	t.Run("the port named", func(t *testing.T) {
		named, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		at := addrPort(named.LocalAddr())
		_, relay := associateWith(t, address, at.Port())
		named.Close()
		other := sender(t, relay)
		io.WriteString(other, toDB7+"y")
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(at), net.UDPAddrFromAddrPort(relay))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		through(t, c, toDB7+"x", toDB7+"x")
		silent(t, other, "another port than the one named")
	})
	t.Run("the client's address", func(t *testing.T) {
		_, relay := associateWith(t, address, 0)
		other, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, net.UDPAddrFromAddrPort(relay))
		if err != nil {
			t.Skipf("this host has one loopback address: %v", err)
		}
		defer other.Close()
		io.WriteString(other, toDB7+"y")
		c := sender(t, relay)
		through(t, c, toDB7+"x", toDB7+"x")
		silent(t, other, "another address")
	})
}

// TestAssociate_isNoWayForPeers: a peer may be joined to the relay's port, and send first.
func TestAssociate_isNoWayForPeers(t *testing.T) {
	n, address := serve(t, NewSOCKS5)
	_, relay := associateWith(t, address, 0)
	peer := sender(t, relay)
	from := addrPort(peer.LocalAddr())
	n.peers.Store(&from)
	io.WriteString(peer, toDB7+"let me through")
	c := sender(t, relay)
	through(t, c, toDB7+"x", toDB7+"x")
	silent(t, peer, "a peer")
	if len(n.dials()) != 1 {
		t.Errorf("dialled %v", n.dials())
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add([]byte(toDB7 + "x"))
	f.Add([]byte("\x00\x00\x00\x03\x02db\x00\x07x"))
	f.Add([]byte("\x00\x00\x00\x04\xfd\x7a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x07"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, port, data, err := readDatagram(in)
		if err != nil {
			return
		}
		if len(data) > len(in)-4 || !strings.HasSuffix(string(in), string(data)) {
			t.Errorf("%q has data %q", in, data)
		}
		onlyOverlay(t, host, port)
	})
}
