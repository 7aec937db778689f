package logstore

import "encoding/binary"

// Fields decodes the fields of a record, one after the other. Short is set once the bytes
// do not suffice.
type Fields struct {
	Rest  []byte
	Short bool
}

// Uvarint decodes an unsigned number as encoding/binary writes it.
func (f *Fields) Uvarint() uint64 {
	number, size := binary.Uvarint(f.Rest)
	f.advance(size)
	return number
}

// Varint decodes a signed number as encoding/binary writes it.
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

// Split returns the next size bytes, and the bytes after them.
func (f *Fields) Split(size uint64) (head, tail []byte) {
	if f.Short || size > uint64(len(f.Rest)) {
		f.Short = true
		return nil, nil
	}
	return f.Rest[:size:size], f.Rest[size:]
}
