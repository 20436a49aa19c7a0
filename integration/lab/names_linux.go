package lab

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// ServeNames answers questions on address, by UDP and TCP, with records as in a zone file.
func (h *Host) ServeNames(ctx context.Context, address string, records ...string) (*Process, error) {
	p, err := h.Start("names", append([]string{h.world.self, helperWord, "names", address}, records...)...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return p, p.WaitFor(ctx, "names served", func(out string) bool { return strings.Count(out, "answering") == 2 })
}

// names is the helper of ServeNames.
func names(args []string) error {
	var records []dns.RR
	for _, text := range args[1:] {
		rr, err := dns.NewRR(text)
		if err != nil {
			return err
		}
		records = append(records, rr)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Rcode = dns.RcodeNameError
		for _, rr := range records {
			if strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
				m.Rcode = dns.RcodeSuccess
				if rr.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		_ = w.WriteMsg(m) // whoever asked is gone
	})
	ended := make(chan error)
	for _, network := range []string{"udp", "tcp"} {
		s := &dns.Server{Addr: args[0], Net: network, Handler: handler, NotifyStartedFunc: func() { println("answering by " + network) }}
		go func() { ended <- s.ListenAndServe() }()
	}
	return errors.Join(<-ended, errors.New("it stopped answering"))
}
