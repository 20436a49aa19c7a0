package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
)

func TestEntrances_countPorts(t *testing.T) {
	var e entrances
	tcp, udp := service{acl.TCP, 5432}, service{acl.UDP, 5432}
	first := e.enter(tcp) // 127.0.0.1:5432
	second := e.enter(tcp)
	if !e.contains(tcp) || e.contains(udp) || e.contains(service{acl.TCP, 5433}) {
		t.Error("another port or protocol is in, or the one entered is not")
	}
	first()
	first()
	if !e.contains(tcp) {
		t.Error("the port was taken out though [::1]:5432 is still open")
	}
	if second(); e.contains(tcp) || len(e.ports) > 0 {
		t.Error("a port that was left is still in")
	}
}

func TestEntrances_keepSourcesWhileWhatTheySentMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e entrances
		from := netip.MustParseAddrPort("127.0.0.1:40000")
		forget := e.note(from)
		time.Sleep(time.Hour)
		if !e.fromPeer(from) || !e.fromPeer(netip.MustParseAddrPort("[::ffff:127.0.0.1]:40000")) || e.fromPeer(netip.MustParseAddrPort("127.0.0.1:40001")) {
			t.Error("an open peer's socket is not known, or another is")
		}
		forget()
		time.Sleep(lingerTime - time.Nanosecond)
		if !e.fromPeer(from) {
			t.Error("forgotten while a datagram may still wait")
		}
		again := e.note(from) // the system gave the port to another peer's socket
		forget()
		time.Sleep(time.Hour)
		if !e.fromPeer(from) {
			t.Error("the first socket's end took the second one's note")
		}
		again()
		time.Sleep(lingerTime)
		if e.fromPeer(from) {
			t.Error("a local program that gets the port later is taken for a peer")
		}
	})
}

func TestEntrances_forgetClosedSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e entrances
		e.note(netip.MustParseAddrPort("127.0.0.1:1"))
		for i := range 10 * fewSources {
			e.note(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(i+2)))()
			time.Sleep(lingerTime / 100)
		}
		if len(e.sources) > 2*fewSources {
			t.Errorf("%d sources are kept", len(e.sources))
		}
		if !e.fromPeer(netip.MustParseAddrPort("127.0.0.1:1")) {
			t.Error("one that is open was forgotten")
		}
	})
}
