package gitpolicy

import (
	"bytes"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// inspect reads a pack's object headers and refuses one that would unpack to more than the bounds: a few kilobytes of zlib, or of
// delta instructions, can name gigabytes.
func inspect(r io.ReadSeeker) error {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scanner := packfile.NewScanner(r)
	_, count, err := scanner.Header()
	if err != nil {
		return refuse("what the Git server sent is no pack: %v", err)
	}
	if count > maxObjects {
		return refuse("the Git server sends %d objects; at most %d are taken: keep the policy in a repository of its own", count, maxObjects)
	}
	var total int64
	for range count {
		size, err := nextSize(scanner)
		if err != nil {
			return refuse("what the Git server sent is damaged: %v", err)
		}
		if total += size; size > maxObject || total > maxUnpack {
			return refuse("the repository holds an object of %d bytes, or more than %d MiB in all; at most %d MiB an object are taken: keep the policy in a repository of its own, without large files in its history",
				size, maxUnpack>>20, maxObject>>20)
		}
	}
	return nil
}

// nextSize is the unpacked size of the next object, which it reads past; a delta's is written at its beginning.
func nextSize(scanner *packfile.Scanner) (int64, error) {
	h, err := scanner.NextObjectHeader()
	if err != nil {
		return 0, err
	}
	if h.Length > maxObject {
		return h.Length, nil
	}
	var head prefix
	if _, _, err := scanner.NextObject(&head); err != nil {
		return 0, err
	}
	if h.Type != plumbing.OFSDeltaObject && h.Type != plumbing.REFDeltaObject {
		return h.Length, nil
	}
	_, rest := deltaSize(head.Bytes()) // of the base
	target, _ := deltaSize(rest)       // of the result
	return max(target, h.Length), nil
}

// prefix keeps the first bytes written to it and swallows the others.
type prefix struct{ bytes.Buffer }

func (p *prefix) Write(b []byte) (int, error) {
	if room := 32 - p.Len(); room > 0 {
		p.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// deltaSize reads the little-endian base-128 number a delta begins with (gitformat-pack(5), "deltified representation");
// one that does not end within 8 bytes counts as too large.
func deltaSize(b []byte) (n int64, rest []byte) {
	for i, c := range b {
		if i == 8 {
			break
		}
		n |= int64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return n, b[i+1:]
		}
	}
	return maxUnpack + 1, nil
}
