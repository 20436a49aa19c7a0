package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/wgtun/key"
)

func testHello() Hello {
	return Hello{Version: 1, Node: "n1", Device: testDevice.Public(), Nonce: bytes.Repeat([]byte{0xaa}, 32), Generation: 5, Digest: bytes.Repeat([]byte{0xdd}, 32)}
}

func testChallenge() Challenge {
	c := Challenge{Network: "net", Coordinator: testCoordinator.Public(), Nonce: bytes.Repeat([]byte{0xbb}, 32), Time: testTime}
	c.Sign(testHello(), testCoordinator)
	return c
}

func testReceipt() Receipt {
	r := Receipt{Generation: 5, Digest: bytes.Repeat([]byte{0xdd}, 32), Applied: 1500 * time.Microsecond, Cut: 3}
	r.Sign("net", "n1", testDevice)
	return r
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCanonicalBytesGolden pins the layouts that are signed, spelled out by hand from the tables in signed.go.
func TestCanonicalBytesGolden(t *testing.T) {
	device, coordinator := testDevice.Public(), testCoordinator.Public()
	want := unhex(t, `
		00000001
		0003 6e6574
		0002 6e31
		`+hex.EncodeToString(device[:])+hex.EncodeToString(coordinator[:])+`
		0020 `+strings.Repeat("aa", 32)+`
		0020 `+strings.Repeat("bb", 32)+`
		0000000000000005
		0020 `+strings.Repeat("dd", 32)+`
		000001a20d6d5afa`)
	if got := ChallengeBytes(testHello(), testChallenge()); !bytes.Equal(got, want) {
		t.Errorf("challenge bytes\n got %x\nwant %x", got, want)
	}
	want = unhex(t, `0003 6e6574 0002 6e31 0000000000000005 0020 `+strings.Repeat("dd", 32)+` 000000000016e360 0000000000000003`)
	if got := ReceiptBytes("net", "n1", testReceipt()); !bytes.Equal(got, want) {
		t.Errorf("receipt bytes\n got %x\nwant %x", got, want)
	}
}

func TestChallengeRefused(t *testing.T) {
	hello, good := testHello(), testChallenge()
	for name, c := range map[string]struct {
		change  func(*Hello, *Challenge)
		key     key.CoordinatorPublic
		network NetworkID
		want    error
	}{
		"of an earlier hello (replayed)": {func(h *Hello, _ *Challenge) { h.Nonce = bytes.Repeat([]byte{1}, 32) }, testCoordinator.Public(), "net", ErrSignature},
		"for another node":               {func(h *Hello, _ *Challenge) { h.Node = "n2" }, testCoordinator.Public(), "net", ErrSignature},
		"for another device":             {func(h *Hello, _ *Challenge) { h.Device = testPeerDevice.Public() }, testCoordinator.Public(), "net", ErrSignature},
		"with another time":              {func(_ *Hello, c *Challenge) { c.Time = c.Time.Add(time.Hour) }, testCoordinator.Public(), "net", ErrSignature},
		"with another nonce":             {func(_ *Hello, c *Challenge) { c.Nonce = hello.Nonce }, testCoordinator.Public(), "net", ErrSignature},
		"with another network put in":    {func(_ *Hello, c *Challenge) { c.Network = "other" }, testCoordinator.Public(), "other", ErrSignature},
		"of another network":             {func(*Hello, *Challenge) {}, testCoordinator.Public(), "other", ErrForeign},
		"from another coordinator":       {func(*Hello, *Challenge) {}, key.NewCoordinator().Public(), "net", ErrSignature},
		"naming another coordinator":     {func(_ *Hello, c *Challenge) { c.Coordinator = key.NewCoordinator().Public() }, testCoordinator.Public(), "net", ErrSignature},
		"signed as a proof": {func(h *Hello, c *Challenge) {
			c.Signature = testCoordinator.Sign(ContextProof, ChallengeBytes(*h, *c))
		}, testCoordinator.Public(), "net", ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			h, ch := hello, good
			c.change(&h, &ch)
			if err := ch.Open(h, c.key, c.network); !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
		})
	}
	if err := good.Open(hello, testCoordinator.Public(), "net"); err != nil {
		t.Error(err)
	}
}

func TestProofRefused(t *testing.T) {
	hello, ch := testHello(), testChallenge()
	var good Proof
	good.Sign(hello, ch, testDevice)
	other := ch
	other.Nonce = bytes.Repeat([]byte{1}, 32)
	foreign := hello
	foreign.Device = testPeerDevice.Public()
	if err := good.Open(hello, other); !errors.Is(err, ErrSignature) {
		t.Errorf("a proof of an earlier challenge (replayed): %v", err)
	}
	if err := good.Open(foreign, ch); !errors.Is(err, ErrSignature) {
		t.Errorf("a proof of another device: %v", err)
	}
	if err := (Proof{Signature: ch.Signature}).Open(hello, ch); !errors.Is(err, ErrSignature) {
		t.Errorf("the coordinator's own signature sent back: %v", err)
	}
	if err := good.Open(hello, ch); err != nil {
		t.Error(err)
	}
}

func TestReceiptRefused(t *testing.T) {
	good := testReceipt()
	for name, err := range map[string]error{
		"of another network":    good.Open("other", "n1", testDevice.Public()),
		"of another node":       good.Open("net", "n2", testDevice.Public()),
		"of another device":     good.Open("net", "n1", testPeerDevice.Public()),
		"for another number":    func() error { r := good; r.Generation++; return r.Open("net", "n1", testDevice.Public()) }(),
		"for another content":   func() error { r := good; r.Digest = nil; return r.Open("net", "n1", testDevice.Public()) }(),
		"with other cut flows":  func() error { r := good; r.Cut++; return r.Open("net", "n1", testDevice.Public()) }(),
		"with another duration": func() error { r := good; r.Applied++; return r.Open("net", "n1", testDevice.Public()) }(),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("a receipt %s: %v", name, err)
		}
	}
	if err := good.Open("net", "n1", testDevice.Public()); err != nil {
		t.Error(err)
	}
}

func testInfo(t testing.TB, change func(*InfoBody)) Info {
	t.Helper()
	b := InfoBody{Version: 1, Network: "net", Coordinator: testCoordinator.Public(), Client: bytes.Repeat([]byte{0xcc}, 32), Nonce: bytes.Repeat([]byte{0xee}, 32), Time: testTime}
	change(&b)
	i, err := SignInfo(b, testCoordinator)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestInfoRefused(t *testing.T) {
	client, print := bytes.Repeat([]byte{0xcc}, 32), testCoordinator.Public().Fingerprint()
	good := testInfo(t, func(*InfoBody) {})
	forged := good
	forged.Body = bytes.Replace(good.Body, []byte(`"net"`), []byte(`"ten"`), 1)
	for name, c := range map[string]struct {
		info Info
		want error
	}{
		"with a changed byte":              {forged, ErrSignature},
		"without a signature":              {Info{Body: good.Body}, ErrSignature},
		"to another nonce (replayed)":      {testInfo(t, func(b *InfoBody) { b.Client = bytes.Repeat([]byte{1}, 32) }), ErrSignature},
		"naming a key that did not sign":   {testInfo(t, func(b *InfoBody) { b.Coordinator = key.NewCoordinator().Public() }), ErrSignature},
		"without a nonce for us":           {testInfo(t, func(b *InfoBody) { b.Nonce = nil }), ErrMalformed},
		"without a network":                {testInfo(t, func(b *InfoBody) { b.Network = "" }), ErrMalformed},
		"that is no JSON":                  {Info{Body: []byte("hello")}, ErrMalformed},
		"with a time beyond all sane time": {testInfo(t, func(b *InfoBody) { b.Time = time.Time{} }), ErrMalformed},
	} {
		if b, err := OpenInfo(c.info, client, print); !errors.Is(err, c.want) || !b.Coordinator.IsZero() {
			t.Errorf("an info %s: %v", name, err)
		}
	}
	other := key.NewCoordinator().Public().Fingerprint()
	if b, err := OpenInfo(good, client, other); !errors.Is(err, ErrSignature) || b.Coordinator != testCoordinator.Public() {
		t.Errorf("an info of another key than the join string's: %v", err)
	}
	for _, want := range []key.Fingerprint{print, {}} {
		if b, err := OpenInfo(good, client, want); err != nil || b.Network != "net" {
			t.Errorf("a good info: %v", err)
		}
	}
}

func TestEnrolRefused(t *testing.T) {
	body := EnrolBody{Network: "net", Coordinator: testCoordinator.Public(), Nonce: bytes.Repeat([]byte{0xee}, 32), Device: testDevice.Public(), Facts: Facts{Hostname: "laptop"}, AuthKey: "picket-key-secret"}
	sign := func(change func(*EnrolBody), k key.DevicePrivate) Enrol {
		b := body
		change(&b)
		e, err := SignEnrol(b, k)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, c := range map[string]struct {
		e    Enrol
		want error
	}{
		"for a key it does not hold":      {sign(func(*EnrolBody) {}, testPeerDevice), ErrSignature},
		"without a key":                   {sign(func(b *EnrolBody) { b.Device = key.DevicePublic{} }, testDevice), ErrSignature},
		"meant for another coordinator":   {sign(func(b *EnrolBody) { b.Coordinator = key.NewCoordinator().Public() }, testDevice), ErrForeign},
		"meant for another network":       {sign(func(b *EnrolBody) { b.Network = "other" }, testDevice), ErrForeign},
		"without a nonce":                 {sign(func(b *EnrolBody) { b.Nonce = nil }, testDevice), ErrMalformed},
		"with a host name of 2,000 bytes": {sign(func(b *EnrolBody) { b.Facts.Hostname = strings.Repeat("a", 2000) }, testDevice), ErrMalformed},
		"that is no JSON":                 {Enrol{Body: []byte(`{"authKey":"picket-key-secret"`)}, ErrMalformed},
	} {
		_, err := OpenEnrol(c.e, testCoordinator.Public(), "net")
		if !errors.Is(err, c.want) {
			t.Errorf("an enrolment %s: %v, want %v", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats the auth key: %v", err)
		}
	}
	got, err := OpenEnrol(sign(func(*EnrolBody) {}, testDevice), testCoordinator.Public(), "net")
	if d := cmp.Diff(body, got); err != nil || d != "" {
		t.Errorf("a good enrolment: %v %s", err, d)
	}
}

func TestParseClientNonce(t *testing.T) {
	for _, s := range []string{"", "AAAA", FormatClientNonce(make([]byte, 15)), FormatClientNonce(make([]byte, 33)), FormatClientNonce(make([]byte, 16)) + "=", FormatClientNonce(make([]byte, 16)) + "\n", "%%%%%%%%%%%%%%%%%%%%%%%%"} {
		if _, err := ParseClientNonce(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q was taken as a nonce: %v", s, err)
		}
	}
	for _, n := range []int{16, 32} {
		if b, err := ParseClientNonce(FormatClientNonce(make([]byte, n))); err != nil || len(b) != n {
			t.Errorf("a nonce of %d bytes: %v", n, err)
		}
	}
}

func TestClockOff(t *testing.T) {
	for d, want := range map[time.Duration]bool{0: false, MaxClockSkew: false, -MaxClockSkew: false, MaxClockSkew + 1: true, -MaxClockSkew - 1: true, time.Hour: true} {
		if ahead, off := ClockOff(testTime.Add(d), testTime); off != want || ahead != d {
			t.Errorf("%s ahead: %s, off %v", d, ahead, off)
		}
	}
}
