package key

import (
	"crypto"
	"crypto/ed25519"
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// twos and ones are fixed secrets, so that golden texts can be written down.
var (
	twos = strings.Repeat("2", 64)
	ones = strings.Repeat("1", 64)
)

func unmarshal[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](t testing.TB, text string) T {
	t.Helper()
	var k T
	if err := P(&k).UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestPublicGolden pins public halves: the Ed25519 one by RFC 8032 section 7.1 test 1, the X25519 ones by RFC 7748 section 6.1 (Alice).
func TestPublicGolden(t *testing.T) {
	const ed, edPublic = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	const x, xPublic = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a", "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
	if got := unmarshal[DevicePrivate](t, "device-private:"+ed).Public().String(); got != "device:"+edPublic {
		t.Errorf("device key: %s", got)
	}
	if got := unmarshal[CoordinatorPrivate](t, "coordinator-private:"+ed).Public().String(); got != "coordinator:"+edPublic {
		t.Errorf("coordinator key: %s", got)
	}
	if got := unmarshal[TunnelPrivate](t, "tunnel-private:"+x).Public().String(); got != "tunnel:"+xPublic {
		t.Errorf("tunnel key: %s", got)
	}
	if got := unmarshal[ProbePrivate](t, "probe-private:"+x).Public().String(); got != "probe:"+xPublic {
		t.Errorf("probe key: %s", got)
	}
}

// TestTextRefused: a key's text is taken in one role and one form only, and no refusal repeats it.
func TestTextRefused(t *testing.T) {
	hex := strings.Repeat("ab", 32)
	into := map[string]encoding.TextUnmarshaler{
		"device": new(DevicePublic), "tunnel": new(TunnelPublic), "probe": new(ProbePublic), "coordinator": new(CoordinatorPublic),
		"device-private": new(DevicePrivate), "tunnel-private": new(TunnelPrivate), "probe-private": new(ProbePrivate), "coordinator-private": new(CoordinatorPrivate),
	}
	for role, k := range into {
		texts := map[string]string{
			"nothing": "", "no role": hex, "no digits": role + ":", "a digit short": role + ":" + hex[1:], "a digit long": role + ":" + hex + "a",
			"upper case": role + ":" + strings.ToUpper(hex), "mixed case": role + ":A" + hex[1:], "upper-case role": strings.ToUpper(role) + ":" + hex,
			"no hexadecimal": role + ":" + strings.Repeat("zz", 32), "a space before": " " + role + ":" + hex, "a newline after": role + ":" + hex + "\n",
		}
		for other := range into {
			if other != role {
				texts["the role "+other] = other + ":" + hex
			}
		}
		for name, text := range texts {
			err := k.UnmarshalText([]byte(text))
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s took %s: %v", role, name, err)
			} else if strings.Contains(err.Error(), hex[:8]) || strings.Contains(err.Error(), "zz") {
				t.Errorf("%s: the refusal of %s repeats the text: %v", role, name, err)
			}
		}
		if err := k.UnmarshalText([]byte(role + ":" + hex)); err != nil {
			t.Errorf("%s refused its own form: %v", role, err)
		}
	}
}

// TestPrivateKeysPrintRedacted: nothing that prints by accident prints a secret (R23).
func TestPrivateKeysPrintRedacted(t *testing.T) {
	keys := []any{
		unmarshal[DevicePrivate](t, "device-private:"+twos), unmarshal[TunnelPrivate](t, "tunnel-private:"+twos),
		unmarshal[ProbePrivate](t, "probe-private:"+twos), unmarshal[CoordinatorPrivate](t, "coordinator-private:"+twos),
	}
	for _, k := range keys {
		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", fmt.Sprint(k), "in", fmt.Sprintf("%+v", struct{ K any }{k}))
		for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %q", k, k, k, k, k), fmt.Sprintf("%+v", struct{ K any }{k}), log.String()} {
			if strings.Contains(s, "222222") || strings.Contains(s, "34 34") || strings.Contains(s, "0x22") || !strings.Contains(s, "redacted") {
				t.Errorf("%T prints as %s", k, s)
			}
		}
	}
}

func TestTextRoundTrip(t *testing.T) {
	device, tunnel, probe, coordinator := NewDevice(), NewTunnel(), NewProbe(), NewCoordinator()
	text := func(m encoding.TextMarshaler) string {
		b, err := m.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if unmarshal[DevicePrivate](t, text(device)) != device || unmarshal[DevicePublic](t, text(device.Public())) != device.Public() {
		t.Error("device key")
	}
	if unmarshal[TunnelPrivate](t, text(tunnel)) != tunnel || unmarshal[TunnelPublic](t, text(tunnel.Public())) != tunnel.Public() {
		t.Error("tunnel key")
	}
	if unmarshal[ProbePrivate](t, text(probe)) != probe || unmarshal[ProbePublic](t, text(probe.Public())) != probe.Public() {
		t.Error("probe key")
	}
	if unmarshal[CoordinatorPrivate](t, text(coordinator)) != coordinator || unmarshal[CoordinatorPublic](t, text(coordinator.Public())) != coordinator.Public() {
		t.Error("coordinator key")
	}
	if device.IsZero() || tunnel.IsZero() || probe.IsZero() || coordinator.IsZero() || NewDevice() == device {
		t.Error("a fresh key is zero, or not fresh")
	}
}

// TestX25519Clamped: RFC 7748 section 5 in both ways a key comes into being.
func TestX25519Clamped(t *testing.T) {
	ff := strings.Repeat("ff", 32)
	for _, b := range [][Size]byte{
		NewTunnel().Bytes(), NewProbe().Bytes(),
		unmarshal[TunnelPrivate](t, "tunnel-private:"+ff).Bytes(), unmarshal[ProbePrivate](t, "probe-private:"+ff).Bytes(),
	} {
		if b[0]&7 != 0 || b[31]&0x80 != 0 || b[31]&0x40 == 0 {
			t.Errorf("not clamped: %x", b)
		}
	}
}

// TestSignatureContexts: a signature holds for its message, context and key alone.
func TestSignatureContexts(t *testing.T) {
	k := unmarshal[DevicePrivate](t, "device-private:"+twos)
	c := unmarshal[CoordinatorPrivate](t, "coordinator-private:"+twos)
	sig := k.Sign("a", []byte("bc"))
	for name, ok := range map[string]bool{
		"another message":                    k.Public().Verify("a", []byte("bd"), sig),
		"another context":                    k.Public().Verify("b", []byte("bc"), sig),
		"the boundary moved":                 k.Public().Verify("ab", []byte("c"), sig),
		"no context":                         k.Public().Verify("", []byte("abc"), sig),
		"another key":                        NewDevice().Public().Verify("a", []byte("bc"), sig),
		"no signature":                       k.Public().Verify("a", []byte("bc"), nil),
		"a byte short":                       k.Public().Verify("a", []byte("bc"), sig[:63]),
		"a byte long":                        k.Public().Verify("a", []byte("bc"), append(sig[:64:64], 0)),
		"the plain message, without context": ed25519.Verify(ed25519.PublicKey(bytesOf(k.Public())), []byte("bc"), sig),
		"the zero device key":                DevicePublic{}.Verify("a", []byte("bc"), make([]byte, 64)),
		"the zero coordinator key":           CoordinatorPublic{}.Verify("a", []byte("bc"), make([]byte, 64)),
	} {
		if ok {
			t.Errorf("a signature passed for %s", name)
		}
	}
	if !k.Public().Verify("a", []byte("bc"), sig) || !c.Public().Verify("a", []byte("bc"), c.Sign("a", []byte("bc"))) {
		t.Error("a good signature was refused")
	}
	if !ed25519.Verify(ed25519.PublicKey(bytesOf(k.Public())), []byte("picket/1 a\x00bc"), sig) {
		t.Error("what is signed is not \"picket/1 \", the context, NUL and the message")
	}
}

// TestZeroKeyVerifiesNothing: 32 zero bytes are a point of order 4, for which anybody can make signatures that Ed25519 itself accepts.
func TestZeroKeyVerifiesNothing(t *testing.T) {
	for i := range 100 {
		msg := []byte{byte(i)}
		for _, r := range [][]byte{{}, {1}} { // R, beside S = 0: the point itself, the neutral one
			sig := append(r, make([]byte, ed25519.SignatureSize-len(r))...)
			if !ed25519.Verify(make([]byte, Size), append([]byte("picket/1 a\x00"), msg...), sig) {
				continue
			}
			if (DevicePublic{}).Verify("a", msg, sig) || (CoordinatorPublic{}).Verify("a", msg, sig) {
				t.Error("a forged signature passed for the zero key")
			}
			return
		}
	}
	t.Fatal("no signature could be forged: the test shows nothing")
}

func bytesOf(k [Size]byte) []byte { return k[:] }

func TestX509SignsAsTheCoordinatorKey(t *testing.T) {
	k := NewCoordinator()
	sig, err := k.X509().Sign(nil, []byte("tbs"), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public()
	if !ed25519.Verify(public[:], []byte("tbs"), sig) {
		t.Error("the X.509 signer is of another key")
	}
}

func TestFingerprint(t *testing.T) {
	print := unmarshal[CoordinatorPrivate](t, "coordinator-private:"+ones).Public().Fingerprint()
	const want = "ELpoLIrRNROXHotWiBqri9cCu4B3luyoGTLHNalNbm0"
	if print.String() != want {
		t.Errorf("fingerprint is %s, want %s", print, want)
	}
	if got, err := ParseFingerprint(want); err != nil || !got.Equal(print) || got.IsZero() {
		t.Errorf("%s: %v", got, err)
	}
	for _, s := range []string{"", want[1:], want + "A", want + "=", want + "\n", want[:21] + "\n" + want[21:], " " + want, want[:42] + "1", strings.Replace(want, "o", "+", 1), strings.Replace(want, "o", "/", 1)} {
		if got, err := ParseFingerprint(s); !errors.Is(err, ErrMalformed) || !got.IsZero() {
			t.Errorf("%q was taken as a fingerprint: %v", s, err)
		}
	}
	if other := NewCoordinator().Public().Fingerprint(); other.Equal(print) {
		t.Error("two keys have one fingerprint")
	}
}

func TestShortShowsEightDigits(t *testing.T) {
	var k [Size]byte
	k[0], k[3], k[4] = 0xab, 0xcd, 0xef
	for got, want := range map[string]string{DevicePublic(k).Short(): "device:ab0000cd", TunnelPublic(k).Short(): "tunnel:ab0000cd", CoordinatorPublic(k).Short(): "coordinator:ab0000cd"} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
