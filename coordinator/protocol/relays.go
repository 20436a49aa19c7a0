package protocol

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"picket.internal/wgtun/key"
)

// OwnRelay is the name of the relay in the coordinator itself. Its entry has no URL: it is at PathRelay of the URL by which the node reaches
// its coordinator.
const OwnRelay = "home"

// MaxRelays bounds the relays of a network, the coordinator's own included.
const MaxRelays = 64

// maxRelayURL bounds Relay.URL, in bytes.
const maxRelayURL = 512

// Relay is an entry "relay/NAME": a server that carries datagrams between nodes without a direct path.
type Relay struct {
	Name string `json:"name"`          // by CheckName
	URL  string `json:"url,omitempty"` // https://host[:port]; PathRelay comes after it. Empty for OwnRelay, and only there
	// Fingerprint is that of the key which its certificate leads to, as in a join string; empty: the certificate is judged by the system's roots.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Reflect are UDP ports of URL's host that answer as a Reflector does; at most MaxRelayReflect, each once. None for OwnRelay.
	Reflect []uint16 `json:"reflect,omitempty"`
}

// MaxRelayReflect bounds Relay.Reflect.
const MaxRelayReflect = 2

// CheckRelay refuses a relay that a map cannot name. The error is a sentence that says what is wrong with it.
func CheckRelay(r Relay) error {
	if CheckName(r.Name) != nil {
		return errors.New("a relay's name has 1 to 63 letters a to z, digits and hyphens, and no hyphen at either end")
	}
	if r.Name == OwnRelay {
		if r.URL != "" || r.Fingerprint != "" || len(r.Reflect) > 0 {
			return fmt.Errorf("the name %s is that of the coordinator's own relay: choose another", OwnRelay)
		}
		return nil
	}
	u, err := url.Parse(r.URL)
	if err != nil || len(r.URL) > maxRelayURL || strings.HasSuffix(r.URL, "/") || strings.Contains(r.URL, "#") || checkURL(u) != nil {
		return errors.New("a relay's URL has the form https://HOST or https://HOST:PORT, and nothing after it")
	}
	if err := checkReflect(r.Reflect); err != nil {
		return err
	}
	if r.Fingerprint == "" {
		return nil
	}
	if print, err := key.ParseFingerprint(r.Fingerprint); err != nil || print.IsZero() {
		return errors.New("a relay's fingerprint has 43 letters, digits, - and _: copy what `picket-coordinator relay` printed")
	}
	return nil
}

func checkReflect(ports []uint16) error {
	if len(ports) > MaxRelayReflect {
		return fmt.Errorf("a relay has %d UDP ports at most that tell nodes where they are seen from", MaxRelayReflect)
	}
	for i, p := range ports {
		if p == 0 || slices.Contains(ports[:i], p) {
			return errors.New("the UDP ports of a relay that tell nodes where they are seen from are numbers from 1 to 65535, each once")
		}
	}
	return nil
}

// Reflectors are the relay's.
func (r Relay) Reflectors() (out []Reflector) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	for _, port := range r.Reflect {
		out = append(out, Reflector{Host: u.Hostname(), Port: port})
	}
	return out
}

func checkRelays(relays []Relay) error {
	if len(relays) > MaxRelays {
		return fmt.Errorf("%d relays, at most %d are read", len(relays), MaxRelays)
	}
	for _, r := range relays {
		if err := CheckRelay(r); err != nil {
			return err
		}
	}
	return nil
}

// addRelay leaves out what it cannot read: a newer coordinator may say more of relays, and without one there are others, or direct paths.
func (c *Content) addRelay(name string, data []byte) {
	var r Relay
	if unmarshal(data, &r, "relay") == nil && r.Name == name && CheckRelay(r) == nil {
		c.Relays = append(c.Relays, r)
	}
}

// relayName bounds the name of a relay in a report or hint; there may be none.
func relayName(s string) error {
	if s == "" {
		return nil
	}
	return CheckName(s)
}
