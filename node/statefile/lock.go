package statefile

import (
	"fmt"
	"os"
	"strconv"
)

// recordHolder writes our process id into the lock file, for the message another agent prints.
func recordHolder(f *os.File, path string) error {
	if err := f.Truncate(0); err != nil {
		f.Close()
		return writeError(path, err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return writeError(path, err)
	}
	return nil
}

func inUse(path, holder string) error {
	problem := "is held by another picket agent"
	if pid, err := strconv.ParseUint(holder, 10, 32); err == nil {
		problem += fmt.Sprintf(" (process %d)", pid)
	}
	return &Error{path, problem, "stop that one, or name another directory with --state"}
}
