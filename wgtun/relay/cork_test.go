package relay

import (
	"errors"
	"net"
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

// inThrees writes as layers above do: in pieces.
type inThrees struct {
	net.Conn
	between func()
}

func (c inThrees) Write(b []byte) (n int, err error) {
	for ; n < len(b); n += 3 {
		if _, err := c.Conn.Write(b[n:min(n+3, len(b))]); err != nil {
			return n, err
		}
		c.between()
	}
	return len(b), nil
}

func TestCork(t *testing.T) {
	below := &pieces{}
	cork := NewCork(below)
	above := cork.Through(inThrees{cork, func() {}})
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
	if diff := cmp.Diff([]string{"hello", "one message", "another", "bye"}, below.written); diff != "" {
		t.Error(diff)
	}
}

// What a layer says meanwhile of its own accord, such as the answer to a ping, goes with the message.
func TestCorkHoldsNothingBack(t *testing.T) {
	below := &pieces{}
	cork := NewCork(below)
	above := cork.Through(inThrees{cork, func() { _, _ = cork.Write([]byte("!")) }})
	_, _ = above.Write([]byte("abcdef"))
	if diff := cmp.Diff([]string{"abc!def!"}, below.written); diff != "" {
		t.Error(diff)
	}
	below.err = errors.New("the network is gone")
	if _, err := above.Write([]byte("abc")); !errors.Is(err, below.err) {
		t.Errorf("a message that was not sent: %v", err)
	}
}
