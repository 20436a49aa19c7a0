package main

import (
	"log/slog"
	"net"
	"slices"
	"testing"
)

func TestReadReflect(t *testing.T) {
	for _, c := range []struct {
		texts  []string
		listen string
		named  bool
		want   []string
	}{
		{reflectPorts, ":8443", false, []string{":3478", ":3479"}},
		{reflectPorts, "192.0.2.1:8443", false, []string{"192.0.2.1:3478", "192.0.2.1:3479"}},
		{[]string{":5000"}, "192.0.2.1:8443", true, []string{":5000"}},
		{[]string{"[2001:db8::1]:5000"}, ":8443", true, []string{"[2001:db8::1]:5000"}},
		{[]string{"off"}, ":8443", true, nil},
	} {
		if s, err := readReflect(c.texts, c.listen, c.named, 16); err != nil || !slices.Equal(s.addresses, c.want) {
			t.Errorf("%q: %q, %v", c.texts, s.addresses, err)
		}
	}
	for _, bad := range []string{"", "5000", ":0", ":05000", ":65536", ":stun", "[::1:5000"} {
		if s, err := readReflect([]string{bad}, ":8443", true, 16); err == nil {
			t.Errorf("%q is taken: %q", bad, s.addresses)
		}
	}
	if _, err := readReflect(slices.Repeat([]string{":5000"}, 17), ":8443", true, 16); err == nil {
		t.Error("17 addresses are taken")
	}
}

// TestTakenReflectPort: a port that is taken stops a coordinator only if it was asked for.
func TestTakenReflectPort(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, named := range []bool{false, true} {
		r, err := listenReflect(t.Context(), reflectSettings{[]string{taken.LocalAddr().String(), "127.0.0.1:0"}, named}, slog.New(slog.DiscardHandler))
		if named != (err != nil) {
			t.Errorf("named %v: %v", named, err)
		}
		if err == nil {
			if n := len(r.Ports()); n != 1 {
				t.Errorf("%d ports", n)
			}
			r.Close()
		}
	}
}
