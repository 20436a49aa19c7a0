//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"

	"picket.internal/coordinator/relayhttp"
	"picket.internal/node/control"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// A relay stands beside a proxy that ends TLS on both sides and only copies: both carry datagrams from the client's host to the server's, by a third
// host, in a process of their own.

const (
	relayPort = "5401"
	proxyPort = "5402"
	relayNet  = "bench"
	relayName = "bench"

	carriedSize = 1280
	// window is how many datagrams are under way at most, as congestion control in a tunnel would have it; a pair's queue in the relay takes 64.
	window = 48
	// ackEvery is how many datagrams the far end answers with one.
	ackEvery = 8
)

// carriers runs a relay and a TLS proxy: carriers COORDINATOR-KEY. It prints "listening".
func carriers(args []string) error {
	if len(args) != 1 {
		return errors.New("carriers COORDINATOR-KEY")
	}
	var coordinator key.CoordinatorPublic
	if err := coordinator.UnmarshalText([]byte(args[0])); err != nil {
		return err
	}
	config, err := ownCertificate()
	if err != nil {
		return err
	}
	plain, err := net.Listen("tcp", ":"+relayPort)
	if err != nil {
		return err
	}
	forRelay := tls.NewListener(relay.PromptListener(plain), config) // as the relay's program has it
	forProxy, err := tls.Listen("tcp", ":"+proxyPort, config)
	if err != nil {
		return err
	}
	server := relay.NewServer(relay.ServerConfig{Coordinator: coordinator, Network: relayNet, Name: relayName, Limits: relay.Limits{Rate: 1 << 40}})
	defer server.Close()
	ended := make(chan error, 2)
	h := &http.Server{Handler: relayhttp.New(server, relayhttp.Config{}), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 5 * time.Second}
	go func() { ended <- h.Serve(forRelay) }()
	go func() { ended <- copyPairs(forProxy) }()
	fmt.Println("listening")
	return <-ended
}

// copyPairs joins each two connections that come one after the other.
func copyPairs(l net.Listener) error {
	next := func() (net.Conn, error) {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		return c, c.(*tls.Conn).Handshake()
	}
	for {
		a, err := next()
		if err != nil {
			return err
		}
		b, err := next()
		if err != nil {
			return err
		}
		for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				_, _ = io.Copy(way[0], way[1])
				way[0].Close()
			}()
		}
	}
}

func ownCertificate() (*tls.Config, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}, NextProtos: []string{"http/1.1"}}, nil
}

// pipe carries datagrams to one other end and back. Both may lose some.
type pipe struct {
	send func([]byte) // does not block for long
	came chan []byte
}

// wayTo opens the pipe that the arguments name: proxy HOST, or relay HOST COORDINATOR-KEY OWN-KEY PEER.
func wayTo(ctx context.Context, args []string) (pipe, error) {
	switch {
	case len(args) == 2 && args[0] == "proxy":
		return byProxy(ctx, net.JoinHostPort(args[1], proxyPort))
	case len(args) == 5 && args[0] == "relay":
		return byRelay(ctx, net.JoinHostPort(args[1], relayPort), args[2:])
	}
	return pipe{}, errors.New("proxy HOST, or relay HOST COORDINATOR-KEY OWN-KEY PEER")
}

// unverified is for hosts that the bench made itself.
var unverified = &tls.Config{InsecureSkipVerify: true}

// byProxy puts datagrams into a stream, each behind its length.
func byProxy(ctx context.Context, addr string) (pipe, error) {
	d := tls.Dialer{Config: unverified}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return pipe{}, err
	}
	out, p := make(chan []byte, 256), pipe{came: make(chan []byte, 256)}
	p.send = func(b []byte) { out <- b }
	go func() {
		w := bufio.NewWriterSize(c, 64<<10)
		for b := range out {
			_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
			if err == nil && len(out) == 0 {
				err = w.Flush()
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(p.came)
		r := bufio.NewReaderSize(c, 64<<10)
		for {
			var n [2]byte
			if _, err := io.ReadFull(r, n[:]); err != nil {
				return
			}
			b := make([]byte, binary.BigEndian.Uint16(n[:]))
			if _, err := io.ReadFull(r, b); err != nil {
				return
			}
			p.came <- b
		}
	}()
	return p, nil
}

// byRelay logs in as nodes do, with a pass of its own making: keys are the coordinator's, its own, and the other end's public one.
func byRelay(ctx context.Context, addr string, keys []string) (pipe, error) {
	var coordinator key.CoordinatorPrivate
	var device key.DevicePrivate
	var peer key.DevicePublic
	if err := errors.Join(coordinator.UnmarshalText([]byte(keys[0])), device.UnmarshalText([]byte(keys[1])), peer.UnmarshalText([]byte(keys[2]))); err != nil {
		return pipe{}, err
	}
	far := relay.AddressOf(relayNet, peer)
	p, c := pipe{came: make(chan []byte, 256)}, &http.Client{Transport: &http.Transport{TLSClientConfig: unverified}}
	client := relay.NewClient(relay.ClientConfig{
		Name: relayName, Network: relayNet, Device: device,
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, _, err := control.DialRelay(ctx, ctx, c, "https://"+addr)
			return conn, err
		},
		Pass: func() []byte {
			pass := relay.NewPass(relayNet, device.Public(), []relay.Address{far}, time.Now())
			return pass.Sign(coordinator)
		},
		Receive: func(_ relay.Address, b []byte) {
			select {
			case p.came <- append([]byte(nil), b...):
			default: // as a tunnel's socket would
			}
		},
	})
	p.send = func(b []byte) { client.Send(far, b) }
	go func() { _ = client.Run(ctx) }()
	return p, nil
}

// collect is the far end of carry, until it is told to end: it answers with how many datagrams have come, and the newest's number.
func collect(args []string) error {
	p, err := wayTo(context.Background(), args)
	if err != nil {
		return err
	}
	fmt.Println("collecting")
	count := uint64(0)
	for b := range p.came {
		if len(b) != carriedSize {
			continue
		}
		if count++; count%ackEvery == 0 || binary.BigEndian.Uint64(b) == 0 {
			p.send(append(binary.BigEndian.AppendUint64(nil, count), b[:8]...))
		}
	}
	return errors.New("the connection has ended")
}

// carry sends datagrams for some time: carry DURATION WAY…. It answers with the Mb/s that arrived.
func carry(args []string) error {
	if len(args) < 1 {
		return errors.New("carry DURATION WAY")
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	p, err := wayTo(context.Background(), args[1:])
	if err != nil {
		return err
	}
	if err := p.meet(); err != nil {
		return err
	}
	began := time.Now()
	arrived := p.pour(began.Add(d))
	return answer(float64(arrived) * carriedSize * 8 / time.Since(began).Seconds() / 1e6)
}

// meet sends number 0 until it is answered.
func (p pipe) meet() error {
	for range 100 {
		p.send(make([]byte, carriedSize))
		select {
		case <-p.came:
			time.Sleep(100 * time.Millisecond)
			for len(p.came) > 0 {
				<-p.came
			}
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("no answer from the far end")
}

// pour sends with a window until end, and returns how many datagrams arrived. What is not answered for 100 ms is taken for lost.
func (p pipe) pour(end time.Time) (arrived uint64) {
	timer := time.NewTimer(time.Hour)
	first, count, acked := uint64(0), uint64(0), uint64(0)
	for sent := uint64(1); time.Now().Before(end); {
		for ; sent-acked <= window; sent++ {
			p.send(append(binary.BigEndian.AppendUint64(nil, sent), make([]byte, carriedSize-8)...))
		}
		timer.Reset(100 * time.Millisecond)
		select {
		case b, ok := <-p.came:
			if !ok {
				return count - first
			}
			count, acked = binary.BigEndian.Uint64(b), max(acked, binary.BigEndian.Uint64(b[8:]))
			if first == 0 {
				first = count
			}
		case <-timer.C:
			acked = sent - 1
		}
	}
	return count - first
}
