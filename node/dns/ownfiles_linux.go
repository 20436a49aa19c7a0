package dns

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// ownFiles reports whether /etc is that of the network this process is in: it is in the same network as the machine's first process, or has
// files of its own. In a network namespace alone, /etc/resolv.conf is the whole machine's, and must not be changed. What cannot be told
// counts against it. proc is /proc.
func ownFiles(proc string) bool {
	return compare(proc, "net", netOf) == same || compare(proc, "mnt", mountsOf) == different
}

// comparison of a namespace with that of the first process.
type comparison int

const (
	unknown comparison = iota
	same
	different
)

// compare looks at the namespaces' links, and where the first process's may not be read, at what else names the namespace.
func compare(proc, ns string, otherwise func(process string) string) comparison {
	first, err1 := os.Readlink(filepath.Join(proc, "1/ns", ns))
	own, err2 := os.Readlink(filepath.Join(proc, "self/ns", ns))
	if err1 != nil || err2 != nil {
		first, own = otherwise(filepath.Join(proc, "1")), otherwise(filepath.Join(proc, "self"))
	}
	switch {
	case first == "" || own == "":
		return unknown
	case first == own:
		return same
	}
	return different
}

// netOf is the inode of a process's net/dev: each network namespace has files of its own there (proc_net(5)).
func netOf(process string) string {
	info, err := os.Stat(filepath.Join(process, "net/dev"))
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return strconv.FormatUint(st.Ino, 10)
}

// mountsOf is the id of the first mount of a process: no two mount namespaces have one in common (proc_pid_mountinfo(5)).
func mountsOf(process string) string {
	text, err := os.ReadFile(filepath.Join(process, "mountinfo"))
	id, _, found := bytes.Cut(text, []byte(" "))
	if err != nil || !found {
		return ""
	}
	return string(id)
}
