package sqlite

import "picket.internal/coordinator"

const relayColumns = "name, url, fingerprint, created, made_by"

func scanRelay(s scanner) (r coordinator.RelayRow, err error) {
	err = s.Scan(&r.Name, &r.URL, &r.Fingerprint, stamp{&r.Created}, &r.By)
	return r, err
}

func (t *tx) Relays() ([]coordinator.RelayRow, error) {
	return list(t, scanRelay, "SELECT "+relayColumns+" FROM relays ORDER BY name")
}

func (t *tx) InsertRelay(r coordinator.RelayRow) error {
	_, err := t.exec("INSERT INTO relays ("+relayColumns+") VALUES (?, ?, ?, ?, ?)", r.Name, r.URL, r.Fingerprint, millis(r.Created), r.By)
	return err
}

func (t *tx) DeleteRelay(name string) (bool, error) {
	n, err := t.exec("DELETE FROM relays WHERE name = ?", name)
	return n == 1, err
}
