//go:build linux

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Usage is what a process holds (proc(5)).
type Usage struct {
	Files   map[string]int // how many are open, by what they are: "socket", or a path
	Threads int
	Heap    int // bytes alive after the newest collection, of a Go program that was started with GODEBUG=gctrace=1
}

// collected is what the runtime prints of a collection: the heap as it began, as it ended, and what is alive, in MB.
var collected = regexp.MustCompile(`(?m)^gc \d+ @.* (\d+)->(\d+)->(\d+) MB, `)

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
		if name == "Threads" {
			u.Threads, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	if all := collected.FindAllStringSubmatch(p.Output(), -1); all != nil {
		mb, _ := strconv.Atoi(all[len(all)-1][3])
		u.Heap = mb << 20
	}
	return u, nil
}
