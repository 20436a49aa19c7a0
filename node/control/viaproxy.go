package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// proxyError is a refusal by the HTTP proxy that is to lead to the coordinator.
type proxyError struct {
	proxy string // host and port
	to    string
	code  int
	text  string
}

func (e *proxyError) Error() string {
	switch e.code {
	case http.StatusProxyAuthRequired:
		return fmt.Sprintf("the HTTP proxy %s wants a name and a password: put ones it accepts into HTTPS_PROXY, http://NAME:PASSWORD@%s", e.proxy, e.proxy)
	case http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusUnauthorized:
		return fmt.Sprintf("the HTTP proxy %s lets no connection to %s through (%s): ask whoever runs it, or name another in HTTPS_PROXY", e.proxy, e.to, e.text)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Sprintf("the HTTP proxy %s does not reach %s (%s)", e.proxy, e.to, e.text)
	}
	return fmt.Sprintf("the HTTP proxy %s does not connect to %s (%s): does it know CONNECT?", e.proxy, e.to, e.text)
}

// proxyAnswered is http.Transport.OnProxyConnectResponse.
func proxyAnswered(_ context.Context, proxy *url.URL, asked *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	text := http.StatusText(answer.StatusCode) // not what the proxy calls it: that is for no terminal
	return &proxyError{proxy: proxy.Host, to: asked.Host, code: answer.StatusCode, text: fmt.Sprintf("%d %s", answer.StatusCode, text)}
}

// proxyReason says what is wrong with the proxy, "" when it is not the proxy.
func proxyReason(err error) string {
	var refused *proxyError
	if errors.As(err, &refused) {
		return refused.Error()
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		return "the HTTP proxy that HTTPS_PROXY names is not reached, or is none (" + op.Err.Error() + ")"
	}
	return ""
}
