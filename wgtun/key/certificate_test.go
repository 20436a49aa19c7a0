package key

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var certNow = time.Unix(1_800_000_000, 0)

func testCertificate(t testing.TB) (Certificate, DevicePrivate) {
	return Certificate{
		Node: "n1", Serial: 7,
		Tunnel:    TunnelPublic(bytes.Repeat([]byte{0xaa}, Size)),
		Probe:     ProbePublic(bytes.Repeat([]byte{0xbb}, Size)),
		NotBefore: certNow.Add(-time.Hour), NotAfter: certNow.Add(time.Hour),
	}, unmarshal[DevicePrivate](t, "device-private:"+twos)
}

// TestCertificateGolden pins the signed form, spelled out from the table in the type's doc.
func TestCertificateGolden(t *testing.T) {
	c, k := testCertificate(t)
	want := "01" + "02" + "6e31" + "0000000000000007" + strings.Repeat("aa", 32) + strings.Repeat("bb", 32) + "000000006b49c3f0" + "000000006b49e010" +
		"b74a16020290626733c1c26e3fc9fe72ea71236122327ba9760bee139431dda5ef2768aaf6201e93b9660668b21d9e0563dc4c442afdb0b7237272b899486a04"
	got := c.Sign(k)
	if d := cmp.Diff(want, hex.EncodeToString(got)); d != "" {
		t.Error(d)
	}
	if len(got) > MaxCertificateSize {
		t.Errorf("%d bytes", len(got))
	}
	back, err := OpenCertificate(got, "n1", k.Public(), certNow)
	if d := cmp.Diff(c, back); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}

func TestCertificateRefused(t *testing.T) {
	c, k := testCertificate(t)
	good := c.Sign(k)
	with := func(change func(*Certificate)) []byte {
		c := c
		change(&c)
		return c.Sign(k)
	}
	// resigned puts a number where a time stands, as Sign would not.
	resigned := func(offset int, v uint64) []byte {
		b := bytes.Clone(good[:len(good)-signatureSize])
		binary.BigEndian.PutUint64(b[offset:], v)
		return append(b, k.Sign(certificateContext, b)...)
	}
	version := bytes.Clone(good)
	version[0] = 2
	for name, c := range map[string]struct {
		signed []byte
		node   string
		device DevicePublic
		at     time.Time
	}{
		"nothing":                         {nil, "n1", k.Public(), certNow},
		"one byte":                        {[]byte{1}, "n1", k.Public(), certNow},
		"another version":                 {version, "n1", k.Public(), certNow},
		"a byte short":                    {good[:len(good)-1], "n1", k.Public(), certNow},
		"a byte long":                     {append(bytes.Clone(good), 0), "n1", k.Public(), certNow},
		"without a node id":               {append([]byte{1, 0}, good[4:]...), "", k.Public(), certNow},
		"a node id that reaches too far":  {append([]byte{1, 255}, good[2:]...), "n1", k.Public(), certNow},
		"another node's":                  {good, "n2", k.Public(), certNow},
		"another device's":                {good, "n1", NewDevice().Public(), certNow},
		"of no device":                    {good, "n1", DevicePublic{}, certNow},
		"signed in another context":       {append(bytes.Clone(good[:len(good)-signatureSize]), k.Sign("receipt", good[:len(good)-signatureSize])...), "n1", k.Public(), certNow},
		"without a tunnel key":            {with(func(c *Certificate) { c.Tunnel = TunnelPublic{} }), "n1", k.Public(), certNow},
		"without a probe key":             {with(func(c *Certificate) { c.Probe = ProbePublic{} }), "n1", k.Public(), certNow},
		"a beginning that wraps round":    {resigned(76, 1<<63), "n1", k.Public(), certNow},
		"an end that wraps round":         {resigned(84, 1<<63-1), "n1", k.Public(), certNow},
		"an end beyond the year 9999":     {resigned(84, maxCertificateTime+1), "n1", k.Public(), certNow},
		"too early":                       {good, "n1", k.Public(), c.NotBefore.Add(-1)},
		"too late":                        {good, "n1", k.Public(), c.NotAfter},
		"an end before its own beginning": {with(func(c *Certificate) { c.NotAfter = c.NotBefore.Add(-time.Hour) }), "n1", k.Public(), certNow},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := OpenCertificate(c.signed, c.node, c.device, c.at)
			timed := strings.HasPrefix(name, "too ") || strings.HasPrefix(name, "an end before")
			if !errors.Is(err, ErrCertificate) || (got != Certificate{}) != timed {
				t.Errorf("opened %v, error %v", got, err)
			}
			if errors.Is(err, ErrCertificateTime) != timed {
				t.Errorf("whether only the time stands against it: %v", err)
			}
		})
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		if _, err := OpenCertificate(b, "n1", k.Public(), certNow); err == nil {
			t.Errorf("a certificate with byte %d changed was opened", i)
		}
	}
}

func TestCertificateSignPanicsOnNodeID(t *testing.T) {
	for _, node := range []string{"", strings.Repeat("a", 65)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a certificate for the node id %q was signed", node)
				}
			}()
			c, k := testCertificate(t)
			c.Node = node
			c.Sign(k)
		}()
	}
	c, k := testCertificate(t)
	c.Node = strings.Repeat("a", 64)
	if got := c.Sign(k); len(got) != MaxCertificateSize {
		t.Errorf("the longest certificate has %d bytes, not %d", len(got), MaxCertificateSize)
	}
}

// FuzzOpenCertificate signs whatever the body is, so that the fields are reached: what opens, signs to the same bytes again.
func FuzzOpenCertificate(f *testing.F) {
	c, k := testCertificate(f)
	good := c.Sign(k)
	f.Add(good[:len(good)-signatureSize], "n1", certNow.Unix())
	f.Add([]byte{1, 0}, "", int64(0))
	f.Fuzz(func(t *testing.T, body []byte, node string, now int64) {
		signed := append(bytes.Clone(body), k.Sign(certificateContext, body)...)
		at := time.Unix(now%maxCertificateTime, 0)
		c, err := OpenCertificate(signed, node, k.Public(), at)
		if err != nil {
			return
		}
		if c.Node != node || at.Before(c.NotBefore) || !at.Before(c.NotAfter) {
			t.Fatalf("opened %+v for %q at %s", c, node, at)
		}
		if !bytes.Equal(c.Sign(k), signed) {
			t.Fatalf("one certificate has two forms: %x", signed)
		}
	})
}

func FuzzKeyText(f *testing.F) {
	f.Add("device:" + twos)
	f.Add("tunnel-private:" + ones)
	f.Fuzz(func(t *testing.T, s string) {
		var d DevicePublic
		if err := d.UnmarshalText([]byte(s)); err == nil && d.String() != s {
			t.Fatalf("%q is %s", s, d)
		}
		var p TunnelPrivate
		if err := p.UnmarshalText([]byte(s)); err != nil && strings.Contains(err.Error(), s) && len(s) > 20 {
			t.Fatalf("the refusal repeats %q", s)
		}
		if print, err := ParseFingerprint(s); err == nil && print.String() != s {
			t.Fatalf("%q is %s", s, print)
		}
	})
}
