package sqlite

import "picket.internal/coordinator"

func (t *tx) DNS() (coordinator.DNSRow, error) {
	return get(t, func(s scanner) (d coordinator.DNSRow, err error) {
		err = s.Scan(&d.Domain, document{&d.DNS}, &d.By, stamp{&d.Since})
		return d, err
	}, "SELECT domain, config, set_by, since FROM dns")
}

func (t *tx) SetDNS(d coordinator.DNSRow) error {
	_, err := t.exec("INSERT INTO dns (one, domain, config, set_by, since) VALUES (1, ?1, ?2, ?3, ?4) "+
		"ON CONFLICT (one) DO UPDATE SET domain = ?1, config = ?2, set_by = ?3, since = ?4", d.Domain, text(d.DNS), d.By, millis(d.Since))
	return err
}
