package protocol

import (
	"errors"
	"io"
)

// Messages reads the messages of a WebSocket end to end, as a stream that knows of no messages; an empty one is passed over. It is for one goroutine.
type Messages struct {
	Next func() (io.Reader, error) // waits for a message, and gives what reads it, to io.EOF

	reading io.Reader // the rest of a message; nil between two
}

// Read reads of one message. Errors are those of Next, and of what it gave but io.EOF.
func (m *Messages) Read(b []byte) (int, error) {
	for {
		if m.reading == nil {
			r, err := m.Next()
			if err != nil {
				return 0, err
			}
			m.reading = r
		}
		n, err := m.reading.Read(b)
		if errors.Is(err, io.EOF) {
			m.reading, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}
