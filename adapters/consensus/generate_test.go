package consensus

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func anyPromotion() *rapid.Generator[promotion] {
	return rapid.Custom(func(t *rapid.T) promotion {
		return promotion{ID: rapid.StringN(1, 20, -1).Draw(t, "id"), Settled: rapid.Bool().Draw(t, "settled")}
	})
}

// resealed returns data with a correct checksum at its end.
func resealed(data []byte) []byte {
	if len(data) < checksumSize {
		return data
	}
	return appendChecksum(bytes.Clone(data[:len(data)-checksumSize]))
}

// eachDamage calls check with every copy of data in which one byte is changed, in one bit or
// in all, and with every copy that ends early.
func eachDamage(t *testing.T, data []byte, check func(t *testing.T, damaged []byte)) {
	t.Helper()
	for at := range data {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			damaged := bytes.Clone(data)
			damaged[at] ^= flip
			check(t, damaged)
		}
		check(t, data[:at])
	}
}
