package coordinator

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// secrets are keys derived from the coordinator's, which is not in the database: a dump of that alone holds no usable secret.
//
// Tokens of 128 bits and more are stored as plain SHA-256; what people type (login codes, recovery codes) as HMAC-SHA-256; TOTP secrets,
// which must be read back, sealed with XChaCha20-Poly1305 (24-byte nonce, then the box; the user's id is authenticated with it).
type secrets struct {
	mac  [32]byte
	seal [chacha20poly1305.KeySize]byte
}

func deriveSecrets(k key.CoordinatorPrivate) (s secrets) {
	text, err := k.MarshalText()
	if err != nil {
		panic("coordinator key has no text: " + err.Error())
	}
	for label, out := range map[string][]byte{"picket/1 typed codes": s.mac[:], "picket/1 totp secrets": s.seal[:]} {
		derived, err := hkdf.Key(sha256.New, text, nil, label, len(out))
		if err != nil {
			panic("hkdf-sha256 cannot give 32 bytes: " + err.Error())
		}
		copy(out, derived)
	}
	return s
}

// hash is the stored form of a code of few bits, of the kind and object given. Parts are separated by NUL, which none of them holds.
func (s secrets) hash(kind, object, code string) (out [32]byte) {
	m := hmac.New(sha256.New, s.mac[:])
	m.Write([]byte(kind + "\x00" + object + "\x00" + code))
	m.Sum(out[:0])
	return out
}

func (s secrets) sealTOTP(u acl.UserID, secret string) []byte {
	box, nonce := s.box(), make([]byte, chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(nonce)
	return box.Seal(nonce, nonce, []byte(secret), []byte(u))
}

// openTOTP fails when the database was edited, or belongs to another coordinator key.
func (s secrets) openTOTP(u acl.UserID, sealed []byte) (string, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return "", errors.New("open TOTP secret: too short")
	}
	nonce, box := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	secret, err := s.box().Open(nil, nonce, box, []byte(u))
	if err != nil {
		return "", errors.New("open TOTP secret: it was not sealed by this coordinator for this user")
	}
	return string(secret), nil
}

func (s secrets) box() interface {
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
} {
	box, err := chacha20poly1305.NewX(s.seal[:])
	if err != nil {
		panic("xchacha20-poly1305 refuses a 32-byte key: " + err.Error())
	}
	return box
}

// Random names and tokens. base32 without padding, lower case, so that they survive URLs, terminals and mail.
var lower32 = base32.StdEncoding.WithPadding(base32.NoPadding)

// token returns n random bytes as lower-case base32.
func token(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	return strings.ToLower(lower32.EncodeToString(b))
}

// randomID returns prefix and 16 random hexadecimal digits: 64 bits, so that ids are never given out twice.
func randomID(prefix string) string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

// tokenHash is the stored form of a token of 128 bits or more.
func tokenHash(t string) [32]byte { return sha256.Sum256([]byte(t)) }

// codeAlphabet has no vowels (no words), and nothing that looks like something else.
const codeAlphabet = "BCDFGHJKLMNPQRSTVWXZ23456789"

// newCode returns XXXX-XXXX: 38 bits, guarded by maxWrongCodes and protocol.TicketLife.
func newCode() string {
	out := make([]byte, 0, 9)
	for len(out) < 9 {
		if len(out) == 4 {
			out = append(out, '-')
			continue
		}
		var b [1]byte
		_, _ = rand.Read(b[:])
		if int(b[0]) < 256/len(codeAlphabet)*len(codeAlphabet) { // else the first letters would come up more often
			out = append(out, codeAlphabet[int(b[0])%len(codeAlphabet)])
		}
	}
	return string(out)
}

// plainCode is a typed code without what people add or leave out.
func plainCode(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, strings.ToUpper(s))
}
