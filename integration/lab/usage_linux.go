//go:build linux

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Usage is what a process holds (proc(5)).
type Usage struct {
	Files   map[string]int // how many are open, by what they are: "socket", or a path
	Threads int
	Memory  int // resident bytes
}

// Usage reads what the process holds now.
func (p *Process) Usage() (Usage, error) {
	dir := fmt.Sprintf("/proc/%d", p.Cmd.Process.Pid)
	files, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return Usage{}, err
	}
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Files: map[string]int{}}
	for _, f := range files {
		kind, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
		if err != nil {
			continue // closed since
		}
		kind, _, _ = strings.Cut(kind, ":[")
		u.Files[kind]++
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "Threads":
			u.Threads = n
		case "VmRSS":
			u.Memory = n << 10
		}
	}
	return u, nil
}
