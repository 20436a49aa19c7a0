package dns

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// fileMode writes /etc/resolv.conf itself. What was there before is kept beside it under another name: the very file or link, so that
// putting it back is one rename, exact in content, mode and target. Ours ends with a digest of itself, by which an agent that was killed
// and started again tells it from one that somebody changed. That one stays.
//
// Where /etc cannot be written but for this file, as in our systemd unit, or the file is a mount, as in containers, it is written in place, and
// what it said is kept beside the agent's state.
type fileMode struct {
	host    *linuxHost
	written []byte // as it was put there by this process; nil before
	beaten  bool   // somebody changed it since: it is theirs now
}

const (
	beforePath = resolvPath + ".before-picket"
	keptPath   = "/var/lib/picket/resolv.conf.before"
	ourHead    = "# Written by picket. `picket down` puts back what was here before.\n"
	noneBefore = "# There was no file before.\n"
	ourDigest  = "# sha256 "
)

func (f *fileMode) apply(s HostSettings) HostState {
	path := f.host.path(resolvPath)
	now, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return HostState{Trouble: fmt.Sprintf("%s cannot be read: %v", resolvPath, err)}
	}
	if f.written == nil {
		if err := f.keep(); err != nil {
			return HostState{Trouble: resolvPath + " cannot be kept for later, so it is left as it is: " + reason(err)}
		}
	} else if !bytes.Equal(now, f.written) {
		f.beaten = true
	}
	if f.beaten {
		return HostState{Trouble: "something else has changed " + resolvPath + " since picket wrote it, and it is left so: names of peers may not be found; " +
			"picket down, then picket up sets it anew"}
	}
	text := f.render(s)
	if !bytes.Equal(text, now) {
		if err := replace(path, text); err != nil {
			if f.written == nil { // nothing of it was changed: there is nothing to put back
				err = errors.Join(err, f.forget())
			}
			return HostState{Trouble: resolvPath + " cannot be written: " + reason(err)}
		}
	}
	f.written = text
	st := HostState{Changed: []string{resolvPath}}
	if before := f.before(); before != "" {
		st.Changed[0] += " (what was there before: " + strings.TrimPrefix(before, strings.TrimSuffix(f.host.Root, "/")) + ")"
	}
	return st
}

// places are where what was there before may be kept, the usual first.
func (f *fileMode) places() []string {
	all := []string{f.host.path(beforePath), f.host.path(keptPath)}
	if f.host.State != "" {
		if p := f.host.path(filepath.Join(f.host.State, filepath.Base(keptPath))); p != all[1] {
			all = append(all, p)
		}
	}
	return all
}

// before is where what was there before is kept; "" when there was nothing.
func (f *fileMode) before() string {
	for _, p := range f.places() {
		if _, err := os.Lstat(p); err == nil {
			return p
		}
	}
	return ""
}

// reason is why a file cannot be changed, and what to do.
func reason(err error) string {
	without := "; picket up --dns=off leaves names alone"
	switch {
	case errors.Is(err, syscall.EROFS):
		return "it is on a read-only file system: have it made writable, or point a nameserver line at " + Listen.Addr().String() + without
	case errors.Is(err, fs.ErrPermission):
		return "operation not permitted: it may be immutable (lsattr shows an i): chattr -i, or point a nameserver line at " + Listen.Addr().String() + without
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// keep puts what is there now aside. It is there afterwards as well, until it is replaced: no program finds none.
func (f *fileMode) keep() error {
	path, before := f.host.path(resolvPath), f.host.path(beforePath)
	if err := f.forget(); err != nil {
		return err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := os.Link(path, before) // of a link, the link itself
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission) && !isMount(path):
		return f.copyKept(path)
	case isMount(path):
		if err = copyFile(path, before); errors.Is(err, syscall.EROFS) {
			err = f.copyKept(path)
		}
		return err
	}
	return copyNode(path, before)
}

// forget removes what was put aside.
func (f *fileMode) forget() error {
	for _, old := range f.places() {
		if _, err := os.Lstat(old); err != nil {
			continue // there is none
		}
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	return nil
}

// copyKept copies to where services keep things; where there is no such place, as in containers, to the agent's own.
func (f *fileMode) copyKept(path string) error {
	var err error
	for _, kept := range f.places()[1:] {
		if err = os.MkdirAll(filepath.Dir(kept), 0o700); err == nil {
			err = copyFile(path, kept)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// render is the text of our file: the host's own options and search domains go on.
func (f *fileMode) render(s HostSettings) []byte {
	before := f.before()
	was := parseResolvConf(readSome(before))
	var b bytes.Buffer
	b.WriteString(ourHead)
	if before == "" {
		b.WriteString(noneBefore)
	}
	fmt.Fprintf(&b, "nameserver %s\n", s.Server)
	search := slices.Clone(s.Search)
	for _, d := range was.search {
		if !slices.Contains(search, d) {
			search = append(search, d)
		}
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(was.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(was.options, " "))
	}
	sum := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, "%s%s\n", ourDigest, hex.EncodeToString(sum[:]))
	return b.Bytes()
}

// isOurs reports whether text is as some agent of ours wrote it, to the byte.
func isOurs(text []byte) bool {
	i := bytes.LastIndex(text, []byte(ourDigest))
	if i < 0 || !bytes.HasPrefix(text, []byte(ourHead)) {
		return false
	}
	sum := sha256.Sum256(text[:i])
	return string(text[i:]) == ourDigest+hex.EncodeToString(sum[:])+"\n"
}

func (f *fileMode) restore() error {
	f.written, f.beaten = nil, false
	path, before := f.host.path(resolvPath), f.before()
	kept := before != ""
	now, _ := os.ReadFile(path)
	switch {
	case !isOurs(now) && kept:
		f.host.Logger.Warn("something else has changed "+resolvPath+" since: it is left as it is", "before", before)
		return nil
	case !isOurs(now):
		return nil
	case !kept && bytes.Contains(now, []byte(noneBefore)):
		return os.Remove(path)
	case !kept:
		return fmt.Errorf("%s is picket's, but what was there before is gone from %s: write it anew", resolvPath, beforePath)
	}
	if before == f.host.path(beforePath) {
		if err := os.Rename(before, path); !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EROFS) {
			return err
		}
	}
	if err := copyFile(before, path); err != nil {
		return err
	}
	return os.Remove(before)
}

// upstreams are those of the file or link that was there before: its target may change while ours is in its place.
func (f *fileMode) upstreams() []netip.AddrPort {
	if f.beaten {
		return parseResolvConf(readSome(f.host.path(resolvPath))).nameservers
	}
	return parseResolvConf(readSome(f.before())).nameservers
}

func (*fileMode) flush() {}

// replace puts text in the place of path in one step, or where that is mounted, into it.
func replace(path string, text []byte) error {
	t, err := os.CreateTemp(filepath.Dir(path), ".resolv.conf-picket-")
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	_, err = t.Write(text)
	if err = errors.Join(err, t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
		return err
	}
	if err = os.Rename(t.Name(), path); errors.Is(err, syscall.EBUSY) {
		return os.WriteFile(path, text, 0o644)
	}
	return err
}

// isMount reports whether a file is a mount of its own: then it cannot be renamed, only written.
func isMount(path string) bool {
	var file, dir syscall.Stat_t
	if syscall.Lstat(path, &file) != nil || syscall.Stat(filepath.Dir(path), &dir) != nil {
		return false
	}
	return file.Dev != dir.Dev
}

// copyFile writes what is in one file into another, with its mode.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
		return err
	}
	if now, err := os.Stat(to); err == nil && now.Mode().Perm() == info.Mode().Perm() {
		return nil
	}
	return os.Chmod(to, info.Mode().Perm())
}

// copyNode copies a file, or a link as such.
func copyNode(from, to string) error {
	if target, err := os.Readlink(from); err == nil {
		return os.Symlink(target, to)
	}
	return copyFile(from, to)
}
