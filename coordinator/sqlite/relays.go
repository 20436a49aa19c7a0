package sqlite

import (
	"fmt"
	"strconv"
	"strings"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

const relayColumns = "name, url, fingerprint, reflect, created, made_by"

func scanRelay(s scanner) (r coordinator.RelayRow, err error) {
	err = s.Scan(&r.Name, &r.URL, &r.Fingerprint, ports{&r.Reflect}, stamp{&r.Created}, &r.By)
	return r, err
}

func (t *tx) Relays() ([]coordinator.RelayRow, error) {
	return list(t, scanRelay, "SELECT "+relayColumns+" FROM relays ORDER BY name")
}

func (t *tx) InsertRelay(r coordinator.RelayRow) error {
	_, err := t.exec("INSERT INTO relays ("+relayColumns+") VALUES (?, ?, ?, ?, ?, ?)", r.Name, r.URL, r.Fingerprint, portsText(r.Reflect), millis(r.Created), r.By)
	return err
}

func (t *tx) DeleteRelay(name string) (bool, error) {
	n, err := t.exec("DELETE FROM relays WHERE name = ?", name)
	return n == 1, err
}

// ports scans what portsText wrote.
type ports struct {
	to *[protocol.MaxRelayReflect]uint16
}

func (p ports) Scan(from any) error {
	text, ok := from.(string)
	if !ok {
		return fmt.Errorf("ports kept as %T", from)
	}
	*p.to = [protocol.MaxRelayReflect]uint16{}
	if text == "" {
		return nil
	}
	words := strings.Split(text, ",")
	if len(words) > len(p.to) {
		return fmt.Errorf("%d ports of a relay are kept", len(words))
	}
	for i, w := range words {
		n, err := strconv.ParseUint(w, 10, 16)
		if err != nil {
			return fmt.Errorf("a port kept as %q", w)
		}
		p.to[i] = uint16(n)
	}
	return nil
}

func portsText(ports [protocol.MaxRelayReflect]uint16) string {
	var words []string
	for _, p := range ports {
		if p != 0 {
			words = append(words, strconv.Itoa(int(p)))
		}
	}
	return strings.Join(words, ",")
}
