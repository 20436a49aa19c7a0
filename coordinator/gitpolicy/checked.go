package gitpolicy

import (
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// checked gives objects only when their bytes hash to the id they were asked for by. go-git believes the name of a loose object's file and
// the index of a pack; without this check, whoever may write those files could put other text under a commit that somebody signed.
type checked struct{ storer.EncodedObjectStorer }

// EncodedObject returns a copy in memory, so that what was hashed is what is read. A missing object is plumbing.ErrObjectNotFound.
func (c checked) EncodedObject(kind plumbing.ObjectType, id plumbing.Hash) (plumbing.EncodedObject, error) {
	o, err := c.unread(kind, id)
	if err != nil {
		return nil, err
	}
	if size := o.Size(); size > maxObject {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", size, maxObject)
	}
	text, err := bytesOf(o)
	if err != nil {
		return nil, err
	}
	if plumbing.ComputeHash(o.Type(), text) != id {
		return nil, fmt.Errorf("its content does not belong to its name")
	}
	whole := &plumbing.MemoryObject{}
	whole.SetType(o.Type())
	_, err = whole.Write(text)
	return whole, err
}

// EncodedObjectSize is the size that the object says it has.
func (c checked) EncodedObjectSize(id plumbing.Hash) (int64, error) {
	o, err := c.unread(plumbing.AnyObject, id)
	if err != nil {
		return 0, err
	}
	return o.Size(), nil
}

// unread is an object as go-git gives it, which reads no more than LargeObjectThreshold of it now. go-git's own EncodedObjectSize leaves the files of
// loose objects open until they are collected. An object of another repository (alternates) is none of this one's.
func (c checked) unread(kind plumbing.ObjectType, id plumbing.Hash) (plumbing.EncodedObject, error) {
	if err := c.HasEncodedObject(id); err != nil {
		return nil, err
	}
	return c.EncodedObjectStorer.EncodedObject(kind, id)
}

func bytesOf(o plumbing.EncodedObject) ([]byte, error) {
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxObject+1))
	if err == nil && len(text) > maxObject {
		err = fmt.Errorf("it has more than %d bytes", maxObject)
	}
	return text, err
}
