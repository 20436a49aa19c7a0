package gitpolicy

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"testing"
	"time"
)

func timeoutContext(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// pack builds a pack of raw entries (header bytes, then content to compress).
func pack(entries ...[2][]byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(entries)))
	for _, e := range entries {
		b = append(b, e[0]...)
		var z bytes.Buffer
		w := zlib.NewWriter(&z)
		_, _ = w.Write(e[1])
		_ = w.Close()
		b = append(b, z.Bytes()...)
	}
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}

// header is an object's type and size (gitformat-pack(5)).
func header(kind byte, size uint64) []byte {
	b := []byte{kind<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		b[len(b)-1] |= 0x80
		b = append(b, byte(size&0x7f))
	}
	return b
}

func TestInspectRefuses(t *testing.T) {
	const blob, refDelta = 3, 7
	base := make([]byte, 20)
	bomb := append([]byte{0x05}, 0xff, 0xff, 0xff, 0xff, 0x7f) // base of 5 bytes, result of 32 GiB
	for _, c := range []struct {
		name string
		pack []byte
		want string
	}{
		{"not a pack", []byte("HTTP/1.1 200 OK"), "no pack"},
		{"empty", nil, "no pack"},
		{"blob that names gigabytes", pack([2][]byte{header(blob, 4<<30), []byte("small")}), "keep the policy"},
		{"delta that makes gigabytes", pack([2][]byte{append(header(refDelta, uint64(len(bomb))), base...), bomb}), "keep the policy"},
		{"delta whose size never ends", pack([2][]byte{append(header(refDelta, 20), base...), bytes.Repeat([]byte{0xff}, 20)}), "keep the policy"},
		{"too many objects", append([]byte("PACK\x00\x00\x00\x02"), 0xff, 0xff, 0xff, 0xff), "objects"},
		{"more content than named", pack([2][]byte{header(blob, 3), bytes.Repeat([]byte("x"), 1<<20)}, [2][]byte{header(blob, 1), []byte("y")}), "damaged"},
		{"cut off", pack([2][]byte{header(blob, 5), []byte("hello")})[:20], "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, inspect(bytes.NewReader(c.pack)), c.want) })
	}
}

func TestInspectAccepts(t *testing.T) {
	if err := inspect(bytes.NewReader(pack([2][]byte{header(3, 5), []byte("hello")}))); err != nil {
		t.Error(err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(pack([2][]byte{header(3, 5), []byte("hello")}))
	f.Add(pack([2][]byte{append(header(7, 6), make([]byte, 20)...), {5, 0xff, 0xff, 0xff, 0xff, 0x7f}}))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = inspect(bytes.NewReader(b)) })
}

func FuzzLocation(f *testing.F) {
	for _, s := range []string{"/srv/x", "https://h/x", "git@h:x", "ssh://u@h:22/x", "ext::sh", "--x", "https://u:p@h/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseLocation(s)
		if err == nil && l.scheme != "file" && (l.host == "" || l.host[0] == '-' || l.path == "") {
			t.Errorf("%q gives %+v", s, l)
		}
	})
}
