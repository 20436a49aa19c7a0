package relay

import (
	"bufio"
	"sync"
)

// bufferSize is how much is read, or written, in one system call when there is much.
const bufferSize = 32 << 10

// buffers are lent to connections on which something is going on.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}

// batches are lent to writers.
var batches = sync.Pool{New: func() any { b := make([]byte, 0, bufferSize+headerSize+addressSize+MaxDatagram); return &b }}
