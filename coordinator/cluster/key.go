package cluster

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// Key is what all members of a ring share: AES-256's. It prints as nothing that could be one.
type Key [32]byte

// NewKey makes one.
func NewKey() (k Key) {
	_, _ = rand.Read(k[:])
	return k
}

// String does not tell it.
func (k Key) String() string { return "(a cluster's key)" }

// GoString does not tell it either.
func (k Key) GoString() string { return k.String() }

// Text is the key as it stands in a file: base64 (RFC 4648 section 4) of its 32 bytes.
func (k Key) Text() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads Text, with white space around it.
func ParseKey(text string) (k Key, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != len(k) {
		return Key{}, errors.New("it is no 32 bytes in base64: make one with `picket-coordinator cluster key FILE`")
	}
	copy(k[:], raw)
	if k == (Key{}) {
		return Key{}, errors.New("it is all zeros: make one with `picket-coordinator cluster key FILE`")
	}
	return k, nil
}

// maxKeyFile is more than a key and its line end take.
const maxKeyFile = 256

// ReadKey reads a key from a file that its owner alone may read. The error names the file and says what to do.
func ReadKey(file string) (Key, error) {
	f, err := os.Open(file)
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return Key{}, err
	case !info.Mode().IsRegular():
		return Key{}, fmt.Errorf("%s is no file", file)
	case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
		return Key{}, fmt.Errorf("others may read %s (mode %04o): chmod 600 it, and if they did, make another key", file, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Key{}, err
	}
	if len(text) > maxKeyFile {
		return Key{}, fmt.Errorf("%s is too long for a cluster's key", file)
	}
	k, err := ParseKey(string(text))
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// WriteKey makes a file of mode 0600 with the key; one that is there already is left alone, and an error.
func WriteKey(file string, k Key) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, k.Text()+"\n")
	return errors.Join(err, f.Close())
}
