package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picket.internal/wgtun/key"
)

const (
	benchDatagram = 1280
	benchFrame    = headerSize + addressSize + benchDatagram
	benchBatch    = 24 // frames that the sender writes at once
)

// BenchmarkBesideProxy carries datagrams from one TLS connection over loopback to another: through a relay, and through a proxy that only copies.
// The sender has at most window datagrams under way, as congestion control would have it; more than fit into a pair's queue would be dropped.
// The proxy is measured without a window too.
func BenchmarkBesideProxy(b *testing.B) {
	const window = 2 * benchBatch
	config := benchTLS(b)
	var relayed, proxied, free time.Duration
	rounds := max(b.N/10000, 1)
	frames := b.N / rounds
	for range rounds { // in turn, so that other load on the machine meets all of them
		proxied += carry(b, config, proxyServer, frames, window)
		relayed += carry(b, config, relayServer, frames, window)
		free += carry(b, config, proxyServer, frames, 1<<30)
	}
	rate := func(d time.Duration) float64 { return float64(rounds*frames*benchDatagram) / d.Seconds() / 1e6 }
	b.ReportMetric(rate(relayed), "relay-MB/s")
	b.ReportMetric(rate(proxied), "proxy-MB/s")
	b.ReportMetric(rate(free), "free-proxy-MB/s")
	b.ReportMetric(rate(relayed)/rate(proxied), "ratio")
	b.ReportMetric(rate(relayed)/rate(free), "ratio-to-free")
	b.ReportMetric(0, "ns/op")
}

// carry returns how long it takes to get datagrams from one client to another.
func carry(b *testing.B, config *tls.Config, server func(*testing.B, net.Listener) benchWay, frames, window int) time.Duration {
	b.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		b.Fatal(err)
	}
	way := server(b, l)
	defer way.stop()
	defer l.Close()
	dial := func() net.Conn {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	from, to := dial(), dial()
	defer from.Close()
	defer to.Close()
	address := way.login(from, to)
	var batch []byte
	for range benchBatch {
		batch = appendFrame(batch, kindDatagram, address[:], make([]byte, benchDatagram))
	}
	var came atomic.Int64 // bytes
	more := make(chan struct{}, 1)
	var reading sync.WaitGroup
	began := time.Now()
	reading.Go(func() {
		buffer := make([]byte, 64<<10)
		for came.Load() < int64(frames*benchFrame) {
			_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := to.Read(buffer)
			if err != nil {
				b.Errorf("%d of %d datagrams came: %v", came.Load()/benchFrame, frames, err)
				break
			}
			came.Add(int64(n))
			signal(more)
		}
		came.Store(1 << 60)
		signal(more)
	})
	for sent := 0; sent < frames; {
		for int64((sent+benchBatch-window)*benchFrame) > came.Load() {
			<-more
		}
		n := min(benchBatch, frames-sent)
		if _, err := from.Write(batch[:n*benchFrame]); err != nil {
			b.Fatal(err)
		}
		sent += n
	}
	reading.Wait()
	return time.Since(began)
}

// benchWay is what lies between two clients.
type benchWay struct {
	login func(from, to net.Conn) Address
	stop  func()
}

func proxyServer(b *testing.B, l net.Listener) benchWay {
	var running sync.WaitGroup
	running.Go(func() {
		var ends [2]net.Conn
		for i := range ends {
			c, err := l.Accept()
			if err == nil {
				err = c.(*tls.Conn).Handshake()
			}
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			ends[i] = c
		}
		_, _ = io.Copy(ends[1], ends[0])
	})
	return benchWay{func(net.Conn, net.Conn) Address { return Address{} }, running.Wait}
}

func relayServer(b *testing.B, l net.Listener) benchWay {
	coordinator := key.NewCoordinator()
	s := NewServer(ServerConfig{Coordinator: coordinator.Public(), Network: network, Name: "near", Limits: Limits{Rate: 1 << 40}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { _ = s.Serve(ctx, c) })
		}
	})
	return benchWay{func(from, to net.Conn) Address {
		x, y := key.NewDevice(), key.NewDevice()
		logIn(b, from, x, NewPass(network, x.Public(), []Address{AddressOf(network, y.Public())}, time.Now()), coordinator)
		logIn(b, to, y, NewPass(network, y.Public(), []Address{AddressOf(network, x.Public())}, time.Now()), coordinator)
		return AddressOf(network, y.Public())
	}, func() { cancel(); s.Close(); l.Close(); running.Wait() }}
}

// logIn logs a device in by hand, as far as the welcome.
func logIn(t testing.TB, conn net.Conn, device key.DevicePrivate, pass Pass, coordinator key.CoordinatorPrivate) {
	t.Helper()
	r := &reader{r: conn, only: func(kind) bool { return true }}
	defer r.release()
	_, challenge, err := r.next()
	if err != nil {
		t.Fatal(err)
	}
	signed := pass.Sign(coordinator)
	signature := device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(signed)))
	if _, err := conn.Write(appendFrame(nil, kindLogin, signature, signed)); err != nil {
		t.Fatal(err)
	}
	if k, _, err := r.next(); k != kindWelcome {
		t.Fatalf("type %d, %v", k, err)
	}
}

func benchTLS(b *testing.B) *tls.Config {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		b.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}
}
