package control

import (
	"context"
	"errors"
	"slices"
	"sync"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// maxEvidence bounds what is kept to be told; beyond it the oldest is forgotten.
const maxEvidence = 64

// maxSeeks bounds how many peers are sought at once.
const maxSeeks = 64

// outbox holds what is to be said: state where only the newest counts (report, receipt, live flows), and evidence. It outlives connections.
type outbox struct {
	wake chan struct{} // of one: something is there

	mu         sync.Mutex
	report     protocol.Report
	newReport  bool
	receipt    protocol.Receipt // Generation 0: none yet
	newReceipt bool
	evidence   []protocol.Evidence
	seeks      []acl.NodeID   // each once
	flows      protocol.Flows // Ask 0: none to be sent
	resync     bool
	logout     bool
	ended      chan error // yields how the open connection ended, if Logout waits for it; nil when none is open
}

func (o *outbox) init(r protocol.Report) { o.wake, o.report = make(chan struct{}, 1), r }

// change runs f under the lock and wakes the sender.
func (o *outbox) change(f func()) {
	o.mu.Lock()
	f()
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// SetReport replaces what the node says of itself; it is sent now, or with the next proof.
func (s *Session) SetReport(r protocol.Report) {
	s.out.change(func() { s.out.report, s.out.newReport = r, true })
}

// Receipt says which generation is enforced; Signature is filled when it is sent. One that is not sent when the
// connection ends is dropped: the next connection begins with a map, to be answered anew.
func (s *Session) Receipt(r protocol.Receipt) {
	s.out.change(func() { s.out.receipt, s.out.newReceipt = r, true })
}

// Evidence is kept until it is sent; of more than 64 the oldest are forgotten.
func (s *Session) Evidence(e protocol.Evidence) {
	s.out.change(func() { s.out.addEvidence(e) })
}

func (o *outbox) addEvidence(e protocol.Evidence) {
	if len(o.evidence) == maxEvidence {
		o.evidence = o.evidence[1:]
	}
	o.evidence = append(o.evidence, e)
}

// Seek asks the coordinator to have a peer ping this node. What is not sent when the connection ends is dropped, as is what is beyond 64.
func (s *Session) Seek(node acl.NodeID) {
	s.out.change(func() {
		if len(s.out.seeks) < maxSeeks && !slices.Contains(s.out.seeks, node) {
			s.out.seeks = append(s.out.seeks, node)
		}
	})
}

// Flows answers the coordinator's newest question; an answer that is not sent when another comes, or when the connection ends, is dropped.
func (s *Session) Flows(f protocol.Flows) { s.out.change(func() { s.out.flows = f }) }

// Resync asks for the whole map.
func (s *Session) Resync() { s.out.change(func() { s.out.resync = true }) }

// Logout asks the coordinator to remove this node, and waits until it has, or until ctx ends. ErrOffline when there is no connection;
// the connection's error when that broke before the answer. Only one caller at a time.
func (s *Session) Logout(ctx context.Context) error {
	var ended chan error
	s.out.change(func() { ended, s.out.logout = s.out.ended, s.out.ended != nil })
	if ended == nil {
		return &Error{Kind: ErrOffline, Message: "not connected to the coordinator: it cannot be told to forget this node; its operator can remove it"}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		var p *ProblemError
		if errors.As(err, &p) && (p.Code == protocol.CodeRemoved || p.Code == protocol.CodeUnknownNode) {
			return nil
		}
		return err
	}
}

// connected notes that a connection is being opened and returns the report for its proof. A receipt meant for an earlier one is dropped:
// it may be for a map that this session never sends, and the header that each session begins with asks for a receipt anyway.
func (o *outbox) connected() protocol.Report {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newReport, o.newReceipt, o.logout, o.flows, o.seeks = false, false, false, protocol.Flows{}, nil
	o.ended = make(chan error, 1)
	return o.report
}

// disconnected tells a waiting Logout how the connection ended.
func (o *outbox) disconnected(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended != nil {
		o.ended <- err
		o.ended = nil
	}
}

// next returns one message to be sent and takes it out; false when there is none.
func (o *outbox) next() (protocol.Message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.resync:
		o.resync = false
		return protocol.Message{Type: protocol.TypeResync, Body: protocol.Resync{}}, true
	case o.newReceipt:
		o.newReceipt = false
		return protocol.Message{Type: protocol.TypeReceipt, Body: o.receipt}, true
	case o.newReport:
		o.newReport = false
		return protocol.Message{Type: protocol.TypeReport, Body: o.report}, true
	case o.flows.Ask != 0:
		f := o.flows
		o.flows = protocol.Flows{}
		return protocol.Message{Type: protocol.TypeFlows, Body: f}, true
	case len(o.seeks) > 0:
		node := o.seeks[0]
		o.seeks = o.seeks[1:]
		return protocol.Message{Type: protocol.TypeSeek, Body: protocol.Seek{Node: node}}, true
	case len(o.evidence) > 0:
		e := o.evidence[0]
		o.evidence = o.evidence[1:]
		return protocol.Message{Type: protocol.TypeEvidence, Body: e}, true
	case o.logout:
		o.logout = false
		return protocol.Message{Type: protocol.TypeLogout, Body: protocol.Logout{}}, true
	}
	return protocol.Message{}, false
}

// putBack keeps what could not be sent and is not said again anyway at the next connection.
func (o *outbox) putBack(m protocol.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch b := m.Body.(type) {
	case protocol.Evidence:
		o.addEvidence(b)
	case protocol.Resync:
		o.resync = true
	}
}
