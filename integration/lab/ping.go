//go:build linux

package lab

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Ping is the system's ping, sending an echo every 10 ms.
type Ping struct{ *Process }

// StartPing starts it with size bytes an echo and waits for the first answer.
func StartPing(ctx context.Context, h *Host, to string, size int) (*Ping, error) {
	p, err := h.Start(fmt.Sprintf("ping-%d", time.Now().UnixNano()), "ping", "-D", "-n", "-i", "0.01", "-s", strconv.Itoa(size), to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return &Ping{p}, p.WaitFor(ctx, "answer to a ping", func(out string) bool { return strings.Contains(out, "time=") })
}

// answered is a line of `ping -D` with an answer: Unix time in brackets first.
var answered = regexp.MustCompile(`(?m)^\[(\d+)\.(\d{6})\] .*time=`)

// LastEcho is when the newest answer came; zero before the first.
func (p *Ping) LastEcho() time.Time {
	all := answered.FindAllStringSubmatch(p.Output(), -1)
	if len(all) == 0 {
		return time.Time{}
	}
	last := all[len(all)-1]
	s, _ := strconv.ParseInt(last[1], 10, 64)
	us, _ := strconv.ParseInt(last[2], 10, 64)
	return time.Unix(s, us*1000)
}
