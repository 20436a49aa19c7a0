package coordinator

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"sync"
	"time"

	"picket.internal/coordinator/protocol"
)

// nonces makes and checks the nonces of Info without remembering those it gave out: 8 bytes of time (Unix milliseconds), 8 random ones,
// and the first 16 of their HMAC-SHA-256 under a key of this process. Only those that came back, signed, are remembered until they are
// too old, so that none is used twice.
type nonces struct {
	key   [32]byte
	mu    sync.Mutex
	spent map[string]time.Time // by mu
}

// maxSpent bounds nonces.spent: enrolments within protocol.NonceLife.
const maxSpent = 1 << 16

func (n *nonces) init() {
	_, _ = rand.Read(n.key[:])
	n.spent = make(map[string]time.Time)
}

func (n *nonces) mac(b []byte) []byte {
	m := hmac.New(sha256.New, n.key[:])
	m.Write(b)
	return m.Sum(nil)[:16]
}

// fresh makes a nonce of 32 bytes.
func (n *nonces) fresh(now time.Time) []byte {
	b := make([]byte, 16, 32)
	binary.BigEndian.PutUint64(b, uint64(now.UnixMilli()))
	_, _ = rand.Read(b[8:])
	return append(b, n.mac(b)...)
}

// spend takes a nonce that fresh made within protocol.NonceLife, once.
func (n *nonces) spend(b []byte, now time.Time) error {
	if len(b) != 32 || !hmac.Equal(b[16:], n.mac(b[:16])) {
		return refuse(protocol.CodeBadRequest, "the request does not carry a nonce of this coordinator: ask for one and try again")
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	if now.Sub(made) > protocol.NonceLife {
		return refuse(protocol.CodeBadRequest, "the request took too long: try again")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.spent[string(b)]; ok {
		return refuse(protocol.CodeBadRequest, "the request was sent before: try again")
	}
	if len(n.spent) >= maxSpent {
		maps.DeleteFunc(n.spent, func(_ string, made time.Time) bool { return now.Sub(made) > protocol.NonceLife })
	}
	if len(n.spent) >= maxSpent {
		return refuse(protocol.CodeThrottled, "too many devices are joining now: try again in a few minutes")
	}
	n.spent[string(b)] = made
	return nil
}

// Info answers PathInfo; client is the asker's nonce, of 16 to 32 bytes.
func (c *Coordinator) Info(client []byte) (protocol.Info, error) {
	if len(client) < 16 || len(client) > 32 {
		return protocol.Info{}, refuse(protocol.CodeBadRequest, "the nonce must have 16 to 32 bytes")
	}
	now := c.now()
	return protocol.SignInfo(protocol.InfoBody{
		Version: protocol.Version, Network: c.config.Network, Coordinator: c.config.Key.Public(),
		Client: client, Nonce: c.nonces.fresh(now), Time: now,
	}, c.config.Key)
}
