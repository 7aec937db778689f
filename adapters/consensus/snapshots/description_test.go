package snapshots

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/test/golden"
)

func someDescription() description {
	return description{
		SnapshotMeta: raft.SnapshotMeta{
			Version: 1, ID: "3-44-1700000000000", Index: 44, Term: 3, Peers: []byte("old"),
			Configuration: raft.Configuration{Servers: []raft.Server{
				{Suffrage: raft.Voter, ID: "n1", Address: "10.0.0.1:8008"},
				{Suffrage: raft.Nonvoter, ID: "n2", Address: "<n2>:8008"},
			}},
			ConfigurationIndex: 7, Size: 4321,
		},
		CRC: []byte{1, 2, 3, 4, 5, 6, 7, 8},
	}
}

func TestGoldenDescriptions(t *testing.T) {
	f := someDescription()
	for name, encode := range map[string]func() ([]byte, error){
		"description-v1-plain.golden":  f.encodeUnsealed, // as raft.FileSnapshotStore writes it
		"description-v1-sealed.golden": f.encode,
	} {
		raw, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := decodeDescription(golden.File(t, name, raw))
		if err != nil {
			t.Errorf("decodeDescription of %s = %v, want success", name, err)
		}
		mustEqual(t, name, read, f)
	}
}

func TestADamagedDescriptionIsRefused(t *testing.T) {
	f := someDescription()
	sealed, err := f.encode()
	if err != nil {
		t.Fatal(err)
	}
	for at := range sealed {
		for bit := range 8 {
			spoilt := bytes.Clone(sealed)
			spoilt[at] ^= 1 << bit
			if got, err := decodeDescription(spoilt); err == nil {
				t.Errorf("bit %d of byte %d changed: decodeDescription(%s) = %+v, want an error", bit, at, spoilt, got)
			}
		}
	}
	for end := range sealed {
		if got, err := decodeDescription(sealed[:end]); err == nil {
			t.Errorf("decodeDescription(%q) = %+v, want an error", sealed[:end], got)
		}
	}
}

// There is only one way to write a description without a checksum.
func TestADescriptionWithoutAChecksumIsWrittenAsEver(t *testing.T) {
	plain, err := someDescription().encodeUnsealed()
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string][2]string{
		"a member with another name":        {`"Servers"`, `"Sesvers"`},
		"a name in lower case":              {`"Servers"`, `"servers"`},
		"version zero":                      {`"Version":1`, `"Version":0`},
		"a later version":                   {`"Version":1`, `"Version":3`},
		"a member in place of the checksum": {`"}` + "\n", `","Checksun":"00000000"}` + "\n"},
	} {
		spoilt := strings.Replace(string(plain), spoil[0], spoil[1], 1)
		if got, err := decodeDescription([]byte(spoilt)); spoilt == string(plain) || err == nil {
			t.Errorf("%s: decodeDescription(%s) = %+v, want an error", name, spoilt, got)
		}
	}
	// A later build may add members, if the checksum covers them.
	body := strings.TrimSuffix(string(plain), "}\n") + `,"More":1`
	if _, err := decodeDescription(sealDescription([]byte(body))); err != nil {
		t.Error(err)
	}
}
