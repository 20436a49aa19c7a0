package coordinator

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"picket.internal/coordinator/protocol"
)

// PasswordCost is what one password check costs (argon2id, RFC 9106).
type PasswordCost struct {
	Memory  uint32 // KiB; 0: 64 MiB
	Passes  uint32 // 0: 3
	Threads uint8  // 0: 1
}

func (p *PasswordCost) fill() error {
	if p.Memory == 0 {
		p.Memory = 64 << 10
	}
	if p.Passes == 0 {
		p.Passes = 3
	}
	if p.Threads == 0 {
		p.Threads = 1
	}
	if p.Memory > 4<<20 || p.Passes > 100 {
		return errors.New("a password check that costs more than 4 GiB or 100 passes")
	}
	return nil
}

// Bounds on passwords, in bytes. The second factor is always there, so length asks for little; the upper bound is for the hash.
const (
	minPassword = 10
	maxPassword = 1024
)

// hashSlots bounds how many passwords are hashed at once, and with that the memory strangers can claim.
const hashSlots = 2

// hashWait is how long one waits for a slot before being told to come back.
const hashWait = 10 * time.Second

// hasher makes and checks password hashes.
type hasher struct {
	cost  PasswordCost
	slots chan struct{}
	dummy string // of no password: what an unknown account is checked against, so that it takes as long
}

func newHasher(cost PasswordCost) hasher {
	h := hasher{cost: cost, slots: make(chan struct{}, hashSlots)}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	none := make([]byte, 32)
	_, _ = rand.Read(none)
	h.dummy = phc(cost, salt, none)
	return h
}

// phc is "$argon2id$v=19$m=KIB,t=PASSES,p=THREADS$SALT$HASH", both in base64 without padding.
func phc(cost PasswordCost, salt, hash []byte) string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, cost.Memory, cost.Passes, cost.Threads, b.EncodeToString(salt), b.EncodeToString(hash))
}

// acquire takes a slot; CodeThrottled when none comes free in time.
func (h hasher) acquire(ctx context.Context) error {
	wait := time.NewTimer(hashWait)
	defer wait.Stop()
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return refuse(protocol.CodeThrottled, "too many people sign in right now: try again in a minute")
	}
}

// make hashes a password.
func (h hasher) make(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer func() { <-h.slots }()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	return phc(h.cost, salt, argon2.IDKey([]byte(password), salt, h.cost.Passes, h.cost.Memory, h.cost.Threads, 32)), nil
}

// check reports whether password is the one stored; stored is empty for an account that has none, which takes as long and is false.
func (h hasher) check(ctx context.Context, stored, password string) (bool, error) {
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer func() { <-h.slots }()
	if len(password) > maxPassword {
		password = password[:maxPassword] // no account has such a one: check refuses longer ones
	}
	real := stored != ""
	if !real {
		stored = h.dummy
	}
	cost, salt, want, err := parsePHC(stored)
	if err != nil {
		return false, err
	}
	got := argon2.IDKey([]byte(password), salt, cost.Passes, cost.Memory, cost.Threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && real, nil
}

// parsePHC reads what phc made. The error never holds the hash.
func parsePHC(s string) (cost PasswordCost, salt, hash []byte, err error) {
	malformed := errors.New("a stored password hash is not of its form")
	f := strings.Split(s, "$")
	if len(f) != 6 || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return cost, nil, nil, malformed
	}
	if _, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &cost.Memory, &cost.Passes, &cost.Threads); err != nil || cost.fill() != nil {
		return cost, nil, nil, malformed
	}
	salt, saltErr := base64.RawStdEncoding.DecodeString(f[4])
	hash, hashErr := base64.RawStdEncoding.DecodeString(f[5])
	if saltErr != nil || hashErr != nil || len(salt) < 8 || len(hash) < 16 {
		return cost, nil, nil, malformed
	}
	return cost, salt, hash, nil
}

func checkPassword(password, login string) error {
	switch {
	case !utf8.ValidString(password) || len(password) > maxPassword:
		return refuse(CodeInvalid, "a password has at most %d bytes of text", maxPassword)
	case utf8.RuneCountInString(password) < minPassword:
		return refuse(CodeInvalid, "a password needs at least %d characters: a few words are easy to remember", minPassword)
	case strings.EqualFold(password, login):
		return refuse(CodeInvalid, "the password must not be the e-mail address")
	}
	return nil
}
