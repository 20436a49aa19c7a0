//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"picket.internal/integration/lab"
)

// ticks is how /proc counts CPU time, a second: USER_HZ, which is 100 on every platform Go runs on.
const ticks = 100

// cpuSeconds is what the processes have used so far, in user and kernel mode.
func cpuSeconds(ps []*lab.Process) (float64, error) {
	sum := 0.0
	for _, p := range ps {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
		if err != nil {
			return 0, err
		}
		s, err := parseStat(string(stat))
		if err != nil {
			return 0, err
		}
		sum += s
	}
	return sum, nil
}

// parseStat reads utime and stime, fields 14 and 15 of /proc/PID/stat (proc(5)), in seconds. Field 2 may hold blanks and
// parentheses, so that counting begins behind its last one.
func parseStat(stat string) (float64, error) {
	_, rest, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	f := strings.Fields(rest) // from field 3
	if len(f) < 13 {
		return 0, fmt.Errorf("read /proc stat: %d fields", len(f))
	}
	user, err := strconv.ParseUint(f[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read /proc stat: %w", err)
	}
	system, err := strconv.ParseUint(f[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read /proc stat: %w", err)
	}
	return float64(user+system) / ticks, nil
}

// peak is the largest resident size of either process so far, in MB.
func peak(ps []*lab.Process) (float64, error) {
	largest := 0.0
	for _, p := range ps {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
		if err != nil {
			return 0, err
		}
		mb, err := parsePeak(string(status))
		if err != nil {
			return 0, err
		}
		largest = max(largest, mb)
	}
	return largest, nil
}

// parsePeak reads VmHWM, in MB of 10⁶ bytes, from /proc/PID/status, which counts in KiB.
func parsePeak(status string) (float64, error) {
	kib, err := strconv.ParseFloat(field(status, "VmHWM"), 64)
	if err != nil {
		return 0, fmt.Errorf("read VmHWM: %w", err)
	}
	return kib * 1024 / 1e6, nil
}

// field is the first word after "name" and a colon at the begin of a line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			word, _, _ := strings.Cut(strings.TrimSpace(value), " ")
			return word
		}
	}
	return ""
}

// facts prints what a reader must know of the machine.
func (b *bench) facts(w io.Writer) {
	var kernel unix.Utsname
	_ = unix.Uname(&kernel) // fails only for a bad pointer
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(w, "machine    %d CPUs (%s, %s), Linux %s, load %s\n", runtime.NumCPU(), runtime.GOARCH, model(string(cpus)),
		unix.ByteSliceToString(kernel.Release[:]), strings.Join(strings.Fields(string(load))[:min(3, len(strings.Fields(string(load))))], " "))
	fmt.Fprintf(w, "software   %s, %s\n", runtime.Version(), wireguardVersion())
	fmt.Fprintf(w, "tunnels    MTU %d, IPv4; Picket with %d rules, the last of which allows the flows\n", mtu, rules)
	sender := "this program's own sender (no iperf3 here)"
	if b.iperf {
		out, _ := exec.Command("iperf3", "--version").Output()
		sender, _, _ = strings.Cut(string(out), " (")
	}
	fmt.Fprintf(w, "measured   TCP by %s, all else by this program\n", sender)
}

func model(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimLeft(strings.TrimSpace(name), ": \t")
		}
	}
	return "model unknown"
}

func wireguardVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "golang.zx2c4.com/wireguard" {
				return "wireguard-go " + d.Version
			}
		}
	}
	return "wireguard-go of unknown version"
}
