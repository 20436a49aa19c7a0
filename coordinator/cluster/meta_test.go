package cluster

import (
	"encoding/hex"
	"testing"
)

func TestMetaGolden(t *testing.T) {
	m := Meta{Role: Relay, Name: "fra", Clients: 41, Version: "v1.2"}
	const want = "01" + "02" + "00000029" + "03" + "04" + "667261" + "76312e32"
	if got := hex.EncodeToString(m.append(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, err := parseMeta(m.append(nil)); err != nil || got != m {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzParseMeta(f *testing.F) {
	f.Add(Meta{Role: Relay, Name: "fra", Clients: 41, Version: "v1.2"}.append(nil))
	f.Add(homeMeta.append(nil))
	f.Add([]byte{1, 1, 0, 0, 0, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b)
		if err != nil {
			return
		}
		if string(m.append(nil)) != string(b) || m.check() != nil || len(b) > maxMeta {
			t.Errorf("%x is read as %+v", b, m)
		}
	})
}
