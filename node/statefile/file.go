package statefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// fileVersion is the newest form of file that this build reads, and the one it writes.
const fileVersion = 1

// maxFile bounds a file, in bytes: the largest map a coordinator may send, in base64, with room.
const maxFile = 64 << 20

type envelope struct {
	Format  string         `json:"format"`
	Version int            `json:"version"`
	SHA256  string         `json:"sha256"`
	Body    jsontext.Value `json:"body"`
}

// read fills body from a file of that format; false when there is no such file.
func (d *Dir) read(name, format string, body any) (bool, error) {
	path := filepath.Join(d.path, name)
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, d.refuseOrphan(path)
	}
	if err != nil {
		return false, err
	}
	if problem := decode(text, format, body); problem != "" {
		return false, &Error{path, problem, d.remedy(path)}
	}
	return true, nil
}

// refuseOrphan keeps a node whose file was lost from starting as a new one when the version before it is still there.
func (d *Dir) refuseOrphan(path string) error {
	if _, err := os.Lstat(path + ".prev"); err != nil {
		return nil
	}
	return &Error{path, "is missing although an older version of it is there", d.remedy(path)}
}

func (d *Dir) remedy(path string) string {
	if _, err := os.Lstat(path + ".prev"); err == nil {
		return fmt.Sprintf("the version before it is %s.prev: look at both, then move one that is whole to %s", path, path)
	}
	return fmt.Sprintf("restore it from a backup, or move %s aside and join anew with picket up", d.path)
}

// decode returns what is wrong with text, "" when nothing is. It never repeats the text, which holds private keys.
func decode(text []byte, format string, body any) string {
	if len(text) == 0 {
		return "is empty"
	}
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return "is truncated, damaged or no file of picket's"
	}
	switch {
	case e.Format != "picket "+format:
		return fmt.Sprintf("is no picket %s file", format)
	case e.Version > fileVersion:
		return fmt.Sprintf("was written by a newer picket (form %d, this build knows %d)", e.Version, fileVersion)
	case e.Version < 1:
		return "does not say its version"
	}
	if err := json.Unmarshal(text, new(envelope), json.RejectUnknownMembers(true)); err != nil {
		return "holds something this build does not know"
	}
	if sum := sha256.Sum256(e.Body); hex.EncodeToString(sum[:]) != e.SHA256 {
		return "is damaged or was edited: its checksum does not fit"
	}
	if err := json.Unmarshal(e.Body, body, json.RejectUnknownMembers(true)); err != nil {
		return "holds something this build does not know"
	}
	return ""
}

// readFile opens without following a link and without waiting for a pipe's other end, and checks the open file rather than the name.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		if info, e := os.Lstat(path); e == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, &Error{path, "is a symbolic link", "put the file itself there"}
		}
		return nil, &Error{path, "cannot be opened", plain(err)}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &Error{path, "cannot be looked at", plain(err)}
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, &Error{path, "is not a regular file", "move it aside"}
	case !ownedByUs(info):
		return nil, &Error{path, "belongs to another user", "look at who put it there, then chown it"}
	case openToOthers(info):
		return nil, &Error{path, "is open to other users (mode " + info.Mode().Perm().String() + ")", "chmod 600 it, and if others could read it, remove this node at the coordinator and join anew"}
	case info.Size() > maxFile:
		return nil, &Error{path, "is too large", "move it aside"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, &Error{path, "cannot be read", plain(err)}
	}
	return text, nil
}

// write replaces a file whole. Whatever fails, the old one is intact.
func (d *Dir) write(name, format string, body any) error {
	path := filepath.Join(d.path, name)
	text, err := encode(format, body)
	if err != nil {
		return &Error{path, "cannot be encoded", err.Error()}
	}
	temp := filepath.Join(d.path, "."+name+".new")
	if err := writeSynced(temp, text); err != nil {
		os.Remove(temp)
		return writeError(path, err)
	}
	if err := keepPrevious(path); err != nil {
		os.Remove(temp)
		return writeError(path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return writeError(path, err)
	}
	if err := syncDir(d.path); err != nil {
		return writeError(path, err)
	}
	return nil
}

func encode(format string, body any) ([]byte, error) {
	inner, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(inner)
	text, err := json.Marshal(envelope{"picket " + format, fileVersion, hex.EncodeToString(sum[:]), inner})
	return append(text, '\n'), err
}

func writeSynced(path string, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a crash
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|openNoFollow, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, bytes.NewReader(text)); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// keepPrevious gives the file in place a second name, NAME.prev, so that there is no moment without one under its own.
func keepPrevious(path string) error {
	prev, link := path+".prev", path+".link"
	os.Remove(link)
	err := os.Link(path, link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Rename(link, prev); err != nil {
		return err
	}
	os.Remove(link) // rename does nothing when both names are one file already
	return nil
}

func writeError(path string, err error) error {
	if isDiskFull(err) {
		return &Error{path, "cannot be written because the disk is full", "free some space; what was there before is intact"}
	}
	if errors.Is(err, fs.ErrPermission) {
		return &Error{path, "cannot be written (" + plain(err) + ")", "run picket as the user it belongs to, or name another directory with --state"}
	}
	return &Error{path, "cannot be written (" + plain(err) + ")", "check the directory and the disk; what was there before is intact"}
}

// plain is the innermost sentence of an operating-system error, without path and operation.
func plain(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err.Error()
	}
	return err.Error()
}
