package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/cmd/internal/pcapng"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func captureCommand() *cli.Command {
	return &cli.Command{
		Name:         "capture",
		Usage:        "record the packets that cross the filter, each with its verdict, for Wireshark",
		ArgsUsage:    "[FILTER]",
		BashComplete: filterWords,
		Description: "Writes pcapng: packets as they are inside the tunnel, each with a comment that says allow or deny, by which rule or why, and between whom. Packets\n" +
			"never wait for the capture: what is not read fast enough is dropped from it, and counted. What this machine sends much of at once is one large packet,\n" +
			"with its checksum yet to be made: it is judged before it is cut. The agent's log says who captured, and when.\n\n" + filterHelp +
			"Examples:\n\n   picket capture | wireshark -k -i -\n   picket capture --verdict deny -w denied.pcapng\n" +
			"   picket capture --count 100 --duration 1m peer web-1 and port 443 | tshark -r - -T fields -e frame.comment",
		Flags: asking(
			&cli.StringFlag{Name: "verdict", Value: "any", Usage: "only packets with this `VERDICT`: allow, deny or any"},
			&cli.StringFlag{Name: "write", Aliases: []string{"w"}, Value: "-", Usage: "write to `FILE`, of mode 0600; - is standard output"},
			&cli.BoolFlag{Name: "force", Usage: "write in place of a file that is there"},
			&cli.IntFlag{Name: "snaplen", Aliases: []string{"s"}, Value: localapi.MaxSnaplen, Usage: "keep `N` bytes of each packet"},
			&cli.Uint64Flag{Name: "count", Aliases: []string{"c"}, Usage: "end after `N` packets"},
			&cli.DurationFlag{Name: "duration", Usage: "end after `TIME`"},
		),
		Action: func(c *cli.Context) error {
			q, err := askCapture(c)
			if err != nil {
				return err
			}
			return capture(c, q)
		},
	}
}

func askCapture(c *cli.Context) (q localapi.AskCapture, err error) {
	if q.Selection, err = selection(c); err != nil {
		return q, err
	}
	q.Snaplen, q.Count, q.Duration = c.Int("snaplen"), c.Uint64("count"), c.Duration("duration")
	verdict := c.String("verdict")
	q.Allowed, q.Denied = verdict != "deny", verdict != "allow"
	switch {
	case verdict != "allow" && verdict != "deny" && verdict != "any":
		return q, cliflags.Usage(c, "--verdict %q is none of allow, deny, any", verdict)
	case q.Snaplen < 1 || q.Snaplen > localapi.MaxSnaplen:
		return q, cliflags.Usage(c, "--snaplen must be from 1 to %d", localapi.MaxSnaplen)
	case q.Duration < 0 || c.IsSet("duration") && q.Duration == 0 || c.IsSet("count") && q.Count == 0:
		return q, cliflags.Usage(c, "--count and --duration must be more than 0")
	case c.String("write") == "":
		return q, cliflags.Usage(c, "--write needs the name of a file, or - for standard output")
	case c.String("write") == "-" && onTerminal(c.App.Writer):
		return q, cliflags.Usage(c, "a capture is no text for a terminal: write it to a file with -w FILE, or pipe it: picket capture | wireshark -k -i -")
	}
	return q, nil
}

// capture writes what the agent hands over. The file is made once the agent has agreed.
func capture(c *cli.Context, q localapi.AskCapture) error {
	r := &recorder{c: c, q: q}
	defer r.close()
	end, err := client(c).Capture(c.Context, q, r.event)
	if errors.Is(err, context.Canceled) {
		// Interrupted: the capture is whole up to the last packet.
		end, err = localapi.CaptureEnd{At: time.Now(), Matched: r.written + r.dropped, Dropped: r.dropped}, nil
	}
	if err != nil {
		return explain(err)
	}
	return r.finish(end)
}

// recorder turns the agent's events into a capture.
type recorder struct {
	c       *cli.Context
	q       localapi.AskCapture
	file    *os.File // nil for standard output
	out     *pcapng.Writer
	started time.Time
	written uint64
	dropped uint64 // so far
	lost    uint64 // of these, since the last packet
}

func (r *recorder) event(e localapi.CaptureEvent) error {
	switch {
	case e.Start != nil && r.out == nil:
		return r.start(*e.Start)
	case e.Packet != nil && r.out != nil:
		return r.packet(*e.Packet)
	}
	return nil
}

func (r *recorder) start(s localapi.CaptureStart) (err error) {
	w, name := r.c.App.Writer, r.c.String("write")
	if name != "-" {
		if r.file, err = createCapture(name, r.c.Bool("force")); err != nil {
			return err
		}
		w = r.file
	}
	device := s.Interface
	if device == "" {
		device = "picket"
	}
	r.started = s.At
	r.out, err = pcapng.NewWriter(w, pcapng.Section{
		Application: "picket " + protocol.Printable(s.Version), System: runtime.GOOS, Comment: r.what(), Interface: protocol.Printable(device),
		Description: "inside the tunnel, at the filter", Snaplen: uint32(r.q.Snaplen),
	})
	if err != nil {
		return r.failed(err)
	}
	fmt.Fprintf(r.c.App.ErrWriter, "Capturing %s; %s.\n", r.what(), r.until())
	return nil
}

// what is "packets that were refused, peer web-1 and port 443".
func (r *recorder) what() string {
	text := "all packets"
	switch {
	case !r.q.Denied:
		text = "packets that pass"
	case !r.q.Allowed:
		text = "packets that are refused"
	}
	if s := r.q.Selection.String(); s != "" {
		text += ", " + protocol.Printable(s)
	}
	return text
}

func (r *recorder) until() string {
	switch {
	case r.q.Count > 0 && r.q.Duration > 0:
		return fmt.Sprintf("it ends after %d of them or %v", r.q.Count, r.q.Duration)
	case r.q.Count > 0:
		return fmt.Sprintf("it ends after %d of them", r.q.Count)
	case r.q.Duration > 0:
		return fmt.Sprintf("it ends after %v", r.q.Duration)
	}
	return "interrupt it (Ctrl-C) to end"
}

func (r *recorder) packet(p localapi.Packet) error {
	lost := r.lost
	r.lost = max(p.Dropped, r.dropped) - r.dropped
	r.dropped += r.lost
	if err := r.out.Packet(pcapng.Packet{At: p.At, Data: p.Data, Length: p.Length, Out: p.Out, Comment: packetComment(p), Dropped: lost}); err != nil {
		return r.failed(err)
	}
	r.written++
	return nil
}

// packetComment is "deny: no rule allows it; from laptop-2 (bob@example.com) to web-1 tcp/22" or "allow: grants[0], line 12; from …".
func packetComment(p localapi.Packet) string {
	why := "deny: " + refusalText(p.Words, p.Rule)
	if p.Allow {
		why = "allow: " + protocol.Printable(p.Rule)
		if p.Rule == "" {
			why = "allow: by a flow that has just ended"
		}
	}
	if p.Proto == "" {
		return why
	}
	return fmt.Sprintf("%s; from %s to %s %s", why, endAndWho(p.Src), endAndWho(p.Dst), serviceText(p.Proto, p.Dst))
}

// finish writes the statistics and says on standard error what was written.
func (r *recorder) finish(end localapi.CaptureEnd) error {
	if r.out == nil {
		return errors.New("the capture was interrupted before it had begun")
	}
	err := r.out.Statistics(pcapng.Statistics{At: end.At, Start: r.started, Stop: end.At, Received: end.Matched, Dropped: end.Dropped})
	if err != nil {
		return r.failed(err)
	}
	if f := r.file; f != nil {
		r.file = nil
		if err := f.Close(); err != nil {
			return r.failed(err)
		}
	}
	text := fmt.Sprintf("Packets written: %d, dropped: %d", r.written, end.Dropped)
	if end.Dropped > 0 {
		text += " because they were not read fast enough"
	}
	fmt.Fprintln(r.c.App.ErrWriter, text+".")
	if end.Why != "" {
		return errors.New("the capture ended early: " + protocol.Printable(end.Why))
	}
	return nil
}

func (r *recorder) close() {
	if r.file != nil {
		r.file.Close()
	}
}

func (r *recorder) failed(err error) error {
	return fmt.Errorf("the capture cannot be written: %w", err)
}

// createCapture makes a new file that only its owner may read: packets hold what people say to each other. Force takes away a file that is
// there first, or its mode would stay; what is no plain file, a link say, stays.
func createCapture(name string, force bool) (*os.File, error) {
	info, err := os.Lstat(name)
	switch {
	case err == nil && !force:
		return nil, fmt.Errorf("%s is there already: name another file, or write in its place with --force", name)
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no plain file: name another", name)
	case err == nil:
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("the capture's file cannot be replaced: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the capture's file cannot be made: %w", err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the capture's file cannot be made: %w", err)
	}
	return f, nil
}
