package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// bbolt has no checksum over the contents of a page, and a vote that is read as another
// one is a vote forgotten. So a value of the stable state ends with a seal: sealMark, and
// the CRC-32C of the key, the value and sealMark. Earlier builds wrote the value without a
// seal; such values are still read. Those builds refuse a sealed number.
var (
	sealMark   = []byte{0xc5, 's', 'u', 'm'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const sealSize = 4 + crc32.Size

// errSeal is the error for a value whose checksum does not match.
var errSeal = logstore.Damage("the checksum of the value is wrong")

func seal(key, value []byte) []byte {
	sealed := append(bytes.Clone(value), sealMark...)
	return binary.BigEndian.AppendUint32(sealed, sealOf(key, sealed))
}

func sealOf(key, sealed []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, sealed)
}

// unseal returns the value that was sealed under key, or stored as it is if it has no seal.
// If sealMark itself is damaged, the value seems to have no seal, but then it is too long
// for a number, and it is no valid address.
func unseal(key, stored []byte) ([]byte, error) {
	at := len(stored) - sealSize
	if at < 0 || !bytes.HasPrefix(stored[at:], sealMark) {
		return stored, nil
	}
	sum := at + len(sealMark)
	if binary.BigEndian.Uint32(stored[sum:]) != sealOf(key, stored[:sum]) {
		return nil, errSeal
	}
	return stored[:at:at], nil
}
