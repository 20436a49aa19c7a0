package control

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// proxyThat listens for CONNECT and answers as told; an empty answer connects. It returns its URL and what it was asked.
func proxyThat(t *testing.T, answer string) (*url.URL, <-chan *http.Request) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan *http.Request, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serveProxy(c, answer, asked)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return &url.URL{Scheme: "http", Host: l.Addr().String()}, asked
}

func serveProxy(c net.Conn, answer string, asked chan<- *http.Request) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	asked <- r
	if answer != "" {
		_, _ = io.WriteString(c, answer)
		return
	}
	far, err := net.Dial("tcp", r.Host)
	if err != nil {
		return
	}
	defer far.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(far, c); far.Close() }()
	_, _ = io.Copy(c, far)
}

func TestProxyRefusals(t *testing.T) {
	page := "<html>\x1b[2Jlog in first</html>"
	for name, c := range map[string]struct{ answer, want string }{
		"asks for a password": {"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "wants a name and a password: put ones it accepts into HTTPS_PROXY"},
		"does not reach it":   {"HTTP/1.1 502 Bad \x1b[2JGateway\r\nContent-Length: 0\r\n\r\n", "does not reach coordinator.example:8443 (502 Bad Gateway)"},
		"forbids it":          {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "lets no connection to coordinator.example:8443 through (403 Forbidden)"},
		"shows a page":        {fmt.Sprintf("HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nContent-Length: %d\r\n\r\n%s", len(page), page), "does not connect to coordinator.example:8443 (302 Found): does it know CONNECT?"},
		"shows it as success": {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n%s", page), "it closed the connection"},
		"is no proxy":         {"SSH-2.0-OpenSSH\r\n", "malformed HTTP response"},
		"says nothing":        {" ", "cannot reach the coordinator"},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, asked := proxyThat(t, c.answer)
			cl := newClient(t, Config{Join: protocol.Join{URL: "https://coordinator.example:8443", Fingerprint: key.NewCoordinator().Public().Fingerprint()}, Proxy: http.ProxyURL(proxy)})
			_, err := cl.Enrol(t.Context(), key.NewDevice(), testFacts, "picket-key-x")
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("%v", err)
			}
			if r := <-asked; r.Method != http.MethodConnect || r.Host != "coordinator.example:8443" {
				t.Errorf("asked for %s %s", r.Method, r.Host)
			}
		})
	}
}

// A proxy that is not there is what stands in the way, not the coordinator; its password is in no error.
func TestProxyNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	proxy := &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("alice", "hunter2")}
	cl := newClient(t, Config{Join: protocol.Join{URL: "https://coordinator.example"}, Proxy: http.ProxyURL(proxy)})
	_, err = cl.Enrol(t.Context(), key.NewDevice(), testFacts, "picket-key-x")
	if err == nil || !strings.Contains(err.Error(), "the HTTP proxy that HTTPS_PROXY names is not reached") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestThroughAProxy(t *testing.T) {
	c := newCoord()
	c.enrol = func(protocol.EnrolBody) (protocol.EnrolAnswer, error) {
		return protocol.EnrolAnswer{Admitted: &testAdmission}, nil
	}
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	proxy, asked := proxyThat(t, "")
	proxy.User = url.UserPassword("alice", "secret")
	cl := newClient(t, Config{Join: c.join(at), Proxy: http.ProxyURL(proxy)})
	if _, err := cl.Enrol(t.Context(), key.NewDevice(), testFacts, "picket-key-x"); err != nil {
		t.Error(err)
	}
	cl.Close()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	if r := <-asked; r.Header.Get("Proxy-Authorization") != want {
		t.Errorf("%v", r.Header)
	}
}
