package logstore

import "encoding/binary"

// Fields takes what a record of a log holds off its bytes, one after the other, and
// remembers when something was not there.
type Fields struct {
	Rest  []byte
	Short bool
}

// Uvarint takes a number as encoding/binary writes it.
func (f *Fields) Uvarint() uint64 {
	number, size := binary.Uvarint(f.Rest)
	f.advance(size)
	return number
}

// Varint takes a number that may be negative.
func (f *Fields) Varint() int64 {
	number, size := binary.Varint(f.Rest)
	f.advance(size)
	return number
}

func (f *Fields) advance(size int) {
	if size <= 0 {
		f.Short = true
		return
	}
	f.Rest = f.Rest[size:]
}

// Split gives the next size bytes, and what is behind them.
func (f *Fields) Split(size uint64) (head, tail []byte) {
	if f.Short || size > uint64(len(f.Rest)) {
		f.Short = true
		return nil, nil
	}
	return f.Rest[:size:size], f.Rest[size:]
}
