package relay

import (
	"bufio"
	"sync"
)

// batchSize is how much is written at once when there is much: with the longest header of a WebSocket message, 14 bytes, it makes one TLS record.
const batchSize = recordSize - 14

// buffers are lent to connections on which something is going on.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, recordSize) }}

// batches are lent to writers. Two pieces of a message that are less than a record each fit into one.
var batches = sync.Pool{New: func() any { b := make([]byte, 0, 2*recordSize); return &b }}
