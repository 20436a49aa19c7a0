package relay

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pieces notes what is written to a connection.
type pieces struct {
	net.Conn
	written []string
	err     error
}

func (p *pieces) Write(b []byte) (int, error) {
	p.written = append(p.written, string(b))
	return len(b), p.err
}

// inPieces writes as a WebSocket does: a header first, then in pieces of some size.
type inPieces struct {
	net.Conn
	cork    *Cork
	size    int
	between func()
}

func (c inPieces) Write(b []byte) (n int, err error) {
	if _, err := c.cork.Write([]byte("#")); err != nil {
		return 0, err
	}
	for ; n < len(b); n += c.size {
		c.between()
		if _, err := c.cork.Write(b[n:min(n+c.size, len(b))]); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

func TestCork(t *testing.T) {
	below := &pieces{}
	cork := NewCork(below)
	above := cork.Through(inPieces{cork: cork, size: 3, between: func() {}})
	if _, err := cork.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	for _, message := range []string{"one message", "another"} {
		if n, err := above.Write([]byte(message)); n != len(message) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if _, err := cork.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	// With its header the second is known to be whole one byte early.
	if diff := cmp.Diff([]string{"hello", "#one message", "#another"[:7], "r", "bye"}, below.written); diff != "" {
		t.Error(diff)
	}
}

// What a layer says meanwhile of its own accord, such as the answer to a ping, goes with the message, and nothing is held back when the message ends.
func TestCorkHoldsNothingBack(t *testing.T) {
	below := &pieces{}
	cork := NewCork(below)
	above := cork.Through(inPieces{cork: cork, size: 3, between: func() { _, _ = cork.Write([]byte("!")) }})
	_, _ = above.Write([]byte("abcdef"))
	if got := strings.Join(below.written, ""); got != "#!abc!def" || cork.held != nil {
		t.Errorf("%q", below.written)
	}
	below.err = errors.New("the network is gone")
	if _, err := above.Write([]byte("abc")); !errors.Is(err, below.err) {
		t.Errorf("a message that was not sent: %v", err)
	}
}

// A message of any length is held a record at a time, and comes whole.
func TestCorkHoldsARecord(t *testing.T) {
	below := &pieces{}
	cork := NewCork(below)
	message := strings.Repeat("0123456789", 20000)
	if _, err := cork.Through(inPieces{cork: cork, size: 4096, between: func() {}}).Write([]byte(message)); err != nil {
		t.Fatal(err)
	}
	for _, p := range below.written {
		if len(p) > recordSize+4096 {
			t.Errorf("%d bytes in one piece", len(p))
		}
	}
	if strings.Join(below.written, "") != "#"+message || len(below.written) > 14 {
		t.Errorf("%d pieces", len(below.written))
	}
}
