package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// bbolt has no checksum over what is in a page, and a vote that reads as another
// one is a vote forgotten. So a value of the stable state ends with a seal: sealMark,
// and the CRC-32C of its key and all before. Builds from before it wrote the value
// alone, which is read as well; they refuse a number with a seal.
var (
	sealMark   = []byte{0xc5, 's', 'u', 'm'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const sealSize = 4 + crc32.Size

// errSeal is about one value.
var errSeal = logstore.Damage("the checksum of the value is wrong")

func seal(key, value []byte) []byte {
	sealed := append(bytes.Clone(value), sealMark...)
	return binary.BigEndian.AppendUint32(sealed, sealOf(key, sealed))
}

func sealOf(key, sealed []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, sealed)
}

// unseal gives the value that was sealed under key. A damaged mark makes a value
// without a seal of it: too long for a number, and no address.
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
