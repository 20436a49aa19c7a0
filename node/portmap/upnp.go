package portmap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds on what a gateway says.
const (
	maxDocument = 256 << 10 // bytes of a description, or of an answer
	maxServices = 64        // looked through
	maxTries    = 3         // outside ports tried
)

// Where devices are searched for (UPnP Device Architecture 1.1, section 1.3).
var ssdpGroup = netip.MustParseAddrPort("239.255.255.250:1900")

const ssdpSearch = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n" +
	"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"

// services that map ports (UPnP IGD, WANIPConnection:1 and :2, WANPPPConnection:1).
var services = []string{
	"urn:schemas-upnp-org:service:WANIPConnection:2", "urn:schemas-upnp-org:service:WANIPConnection:1", "urn:schemas-upnp-org:service:WANPPPConnection:1",
}

type upnp struct{ dialer }

func (upnp) name() string { return "UPnP" }

// control is where a gateway takes commands.
type control struct {
	url     *url.URL
	service string
}

func (u upnp) open(ctx context.Context, g Gateway, port, like uint16) (lease, error) {
	c, err := u.find(ctx, g)
	if err != nil {
		return lease{}, err
	}
	answer, err := u.call(ctx, g, c, "GetExternalIPAddress", "")
	if err != nil {
		return lease{}, err
	}
	outside, err := netip.ParseAddr(strings.TrimSpace(answer.Address))
	if err != nil {
		return lease{}, errors.New("the gateway does not tell its outside address")
	}
	given := life
	for try := range maxTries {
		_, err = u.call(ctx, g, c, "AddPortMapping", addMapping(g, port, like, given))
		var f *fault
		switch {
		case err == nil:
			return lease{outside: netip.AddrPortFrom(outside, like), life: life, detail: c}, nil
		case errors.As(err, &f) && f.code == 725: // OnlyPermanentLeasesSupported
			given = 0
		case errors.As(err, &f) && f.code == 718: // ConflictInMappingEntry
			like = 1024 + (like+uint16(try)*7919+4099)%(65535-1024)
		default:
			return lease{}, err
		}
	}
	return lease{}, err
}

func addMapping(g Gateway, port, like uint16, given time.Duration) string {
	return fmt.Sprintf("<NewRemoteHost></NewRemoteHost><NewExternalPort>%d</NewExternalPort><NewProtocol>UDP</NewProtocol><NewInternalPort>%d</NewInternalPort>"+
		"<NewInternalClient>%s</NewInternalClient><NewEnabled>1</NewEnabled><NewPortMappingDescription>picket</NewPortMappingDescription>"+
		"<NewLeaseDuration>%d</NewLeaseDuration>", like, port, g.Own, int(given/time.Second))
}

func (u upnp) close(ctx context.Context, l lease) error {
	c, ok := l.detail.(control)
	if !ok {
		return errors.New("no lease of UPnP's")
	}
	_, err := u.call(ctx, l.gateway, c, "DeletePortMapping",
		fmt.Sprintf("<NewRemoteHost></NewRemoteHost><NewExternalPort>%d</NewExternalPort><NewProtocol>UDP</NewProtocol>", l.outside.Port()))
	return err
}

func (u upnp) probe(ctx context.Context, g Gateway) error {
	_, err := u.find(ctx, g)
	return err
}

// find searches the network for the gateway's description, and in that for where it takes commands.
func (u upnp) find(ctx context.Context, g Gateway) (control, error) {
	at, err := u.search(ctx, g)
	if err != nil {
		return control{}, err
	}
	body, err := u.fetch(ctx, g, &http.Request{Method: http.MethodGet, URL: at, Header: http.Header{}})
	if err != nil {
		return control{}, err
	}
	return readDescription(body, at, g.Router)
}

// search asks the gateway, and the group it listens to, where its description is. Whoever else answers is not heard.
func (u upnp) search(ctx context.Context, g Gateway) (*url.URL, error) {
	lc := net.ListenConfig{Control: u.control}
	c, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(g.Own, 0).String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(g.Router, ssdpGroup.Port()), ssdpGroup} {
		_, _ = c.WriteTo([]byte(ssdpSearch), net.UDPAddrFromAddrPort(to)) // one of the two may be refused
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return nil, errSilent
		}
		if a, ok := from.(*net.UDPAddr); !ok || a.AddrPort().Addr().Unmap() != g.Router {
			continue
		}
		if at, ok := location(buf[:n], g.Router); ok {
			return at, nil
		}
	}
}

// location reads where a description is out of an answer to a search; false when that is not at the router itself.
func location(answer []byte, router netip.Addr) (*url.URL, bool) {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	at, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != http.StatusOK || !atRouter(at, router) {
		return nil, false
	}
	return at, true
}

// atRouter is the guard on every URL that a gateway names (R16): plain http at its very address, or any device could have us call any other.
func atRouter(u *url.URL, router netip.Addr) bool {
	host, err := netip.ParseAddr(u.Hostname())
	return err == nil && u.Scheme == "http" && u.User == nil && host == router
}

// device is what is read of a description.
type device struct {
	Services []struct {
		Type    string `xml:"serviceType"`
		Control string `xml:"controlURL"`
	} `xml:"serviceList>service"`
	Devices []device `xml:"deviceList>device"`
}

// readDescription finds the service that maps ports.
func readDescription(body []byte, at *url.URL, router netip.Addr) (control, error) {
	var root struct {
		Base   string `xml:"URLBase"`
		Device device `xml:"device"`
	}
	if xml.Unmarshal(body, &root) != nil {
		return control{}, errors.New("the gateway's description cannot be read")
	}
	if base, err := url.Parse(root.Base); err == nil && root.Base != "" {
		at = base
	}
	found := make(map[string]string)
	seen := 0
	var walk func(d device, depth int)
	walk = func(d device, depth int) {
		for _, s := range d.Services {
			if seen++; seen <= maxServices {
				found[strings.TrimSpace(s.Type)] = strings.TrimSpace(s.Control)
			}
		}
		for _, sub := range d.Devices {
			if depth < 4 {
				walk(sub, depth+1)
			}
		}
	}
	walk(root.Device, 0)
	for _, s := range services {
		ref, err := url.Parse(found[s])
		if found[s] == "" || err != nil {
			continue
		}
		if u := at.ResolveReference(ref); atRouter(u, router) {
			return control{u, s}, nil
		}
		return control{}, errors.New("the gateway names another host for its commands")
	}
	return control{}, errors.New("the gateway offers no port mappings")
}

// reply is what is read of an answer to a command.
type reply struct {
	Address string
	Code    string
}

// fault is a gateway's refusal.
type fault struct{ code int }

func (f *fault) Error() string { return fmt.Sprintf("the gateway refuses (error %d)", f.code) }

// call has the gateway do something (UPnP Device Architecture 1.1, section 3.2); arguments is XML of ours.
func (u upnp) call(ctx context.Context, g Gateway, c control, action, arguments string) (reply, error) {
	text := `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>` +
		`<u:` + action + ` xmlns:u="` + c.service + `">` + arguments + `</u:` + action + `></s:Body></s:Envelope>`
	body, err := u.fetch(ctx, g, &http.Request{
		Method: http.MethodPost, URL: c.url, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
		Header: http.Header{"Content-Type": {`text/xml; charset="utf-8"`}, "Soapaction": {`"` + c.service + "#" + action + `"`}},
	})
	if err != nil {
		return reply{}, err
	}
	return readReply(body)
}

func readReply(body []byte) (reply, error) {
	var e struct {
		Address string `xml:"Body>GetExternalIPAddressResponse>NewExternalIPAddress"`
		Code    string `xml:"Body>Fault>detail>UPnPError>errorCode"`
	}
	if xml.Unmarshal(body, &e) != nil {
		return reply{}, errors.New("the gateway's answer cannot be read")
	}
	if e.Code != "" {
		n, err := strconv.ParseUint(strings.TrimSpace(e.Code), 10, 16)
		if err != nil {
			n = 0
		}
		return reply{}, &fault{int(n)}
	}
	return reply{e.Address, e.Code}, nil
}

// fetch does one request to the gateway: no redirects, no proxy, no other address, a bounded answer.
func (u upnp) fetch(ctx context.Context, g Gateway, r *http.Request) ([]byte, error) {
	if !atRouter(r.URL, g.Router) {
		return nil, errors.New("the gateway names another host")
	}
	nd := net.Dialer{Control: u.control}
	transport := &http.Transport{
		DialContext: nd.DialContext, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r.WithContext(ctx)) // follows no redirect
	if err != nil {
		return nil, errSilent
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusInternalServerError { // the latter comes with a fault
		return nil, fmt.Errorf("the gateway answers with HTTP status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil || len(body) > maxDocument {
		return nil, errors.New("the gateway's answer is cut short, or too long")
	}
	return body, nil
}
