package statefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const flowsName = "flows.json"

// Flows is what an agent that was stopped leaves to the one that is started next: the live flows.
type Flows struct {
	Boot   string `json:"boot"`   // which start of the host it is of: after another one no connection lives
	Millis int64  `json:"millis"` // since that start, time asleep included
	Saved  []byte `json:"saved"`  // as the filter wrote it
}

// SaveFlows writes them. More than fits a file of this directory are left out: those connections must be opened anew.
func (d *Dir) SaveFlows(f Flows) error {
	if len(f.Saved) > maxFile/2 { // it is written in base64
		return &Error{filepath.Join(d.path, flowsName), "would be too large", "nothing needs to be done: connections that were open must be opened anew"}
	}
	return d.write(flowsName, "flows", f)
}

// TakeFlows reads and removes what SaveFlows wrote, so that it is used once; false when there is nothing, or nothing that can be read.
func (d *Dir) TakeFlows() (f Flows, ok bool, err error) {
	path := filepath.Join(d.path, flowsName)
	ok, err = d.read(flowsName, "flows", &f)
	for _, old := range []string{path, path + ".prev"} {
		if e := os.Remove(old); e != nil && !errors.Is(e, fs.ErrNotExist) {
			return Flows{}, false, &Error{old, "cannot be removed", plain(e)}
		}
	}
	return f, ok && err == nil, err
}
