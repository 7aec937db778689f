package snapshots

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// description is the content of meta.json. Its last member is a checksum of all before it,
// because the membership, for one, is stored nowhere else. Builds from before the checksum
// ignore it, and write exactly the same bytes without it.
type description struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64 (ECMA) of the state
}

// encodeUnsealed encodes the description without its checksum.
func (f description) encodeUnsealed() ([]byte, error) {
	raw, err := json.Marshal(f)
	return append(raw, '\n'), err
}

func (f description) encode() ([]byte, error) {
	raw, err := f.encodeUnsealed()
	return sealDescription(bytes.TrimSuffix(raw, []byte("}\n"))), err
}

// sealDescription appends the checksum, and the end of the JSON object, to body.
func sealDescription(body []byte) []byte {
	return fmt.Appendf(bytes.Clone(body), descriptionSeal, crc32.Checksum(body, castagnoli))
}

const (
	descriptionSeal       = `,"Checksum":"%08x"}` + "\n" // CRC-32C
	descriptionSealLength = len(`,"Checksum":"01234567"}` + "\n")
)

// decodeDescription verifies the checksum. A description without one must have exactly the
// bytes that builds from before the checksum write.
func decodeDescription(raw []byte) (f description, err error) {
	body := raw[:max(0, len(raw)-descriptionSealLength)]
	proven := bytes.Equal(raw, sealDescription(body))
	if err := json.Unmarshal(raw, &f); err != nil || proven {
		return f, err
	}
	if plain, err := f.encodeUnsealed(); err != nil || f.Version != metaVersion || !bytes.Equal(raw, plain) {
		return f, errChecksum
	}
	return f, nil
}

func readDescription(path string) (description, error) {
	raw, err := os.ReadFile(filepath.Join(path, metaFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return description{}, ErrMissing
	case err != nil:
		return description{}, err
	}
	meta, err := decodeDescription(raw)
	if err != nil {
		return meta, err
	}
	named, ok := parseName(filepath.Base(path))
	switch {
	case meta.Version != metaVersion:
		return meta, fmt.Errorf("%w: it is of version %d, this build reads version %d", ErrUnknownFormat, meta.Version, metaVersion)
	case !ok || meta.ID != named.ID || meta.Index != named.Index || meta.Term != named.Term:
		return meta, fmt.Errorf("it is about snapshot %q, entry %d of term %d, and does not fit the name of its folder", meta.ID, meta.Index, meta.Term)
	}
	return meta, nil
}
