package logstore

import (
	"encoding/binary"
	"fmt"
)

// Values is the part of a raft.StableStore that keeps bytes.
type Values interface {
	Set(key, value []byte) error
	Get(key []byte) ([]byte, error)
}

// SetUint64 implements the method of raft.StableStore for a store of bytes.
func SetUint64(in Values, key []byte, value uint64) error {
	return in.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 returns what SetUint64 has set.
func GetUint64(in Values, key []byte) (uint64, error) {
	value, err := in.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("stable key %q holds %d bytes, not a number", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}
