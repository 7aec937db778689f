package codec

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Like protobuf, these encoders omit zero values.

func appendString(b []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func appendUint(b []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

// appendMessage appends an embedded message whose content fields appends to b. It is written
// even if it is empty: its presence may have a meaning.
func appendMessage(b []byte, number protowire.Number, fields func(b []byte) []byte) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	start := len(b) + 1 // most lengths take one byte
	b = fields(append(b, 0))
	length := uint64(len(b) - start)
	if more := protowire.SizeVarint(length) - 1; more > 0 {
		b = append(b, make([]byte, more)...)
		copy(b[start+more:], b[start:])
	}
	protowire.AppendVarint(b[:start-1], length)
	return b
}

// field is the current field of a message that is being read. The same value is reused for
// the next field, and for those of embedded messages, so readers must not keep it. Its
// accessors record the first error, so that reading code needs no branch for each.
type field struct {
	number protowire.Number
	kind   protowire.Type
	varint uint64
	bytes  []byte
	err    error
}

// readFields calls read for each field of message, until one of them fails.
func readFields(message []byte, read func(*field)) error {
	var f field
	f.each(message, read)
	return f.err
}

// onlyText reads the fields of a message that has no other than the text 1.
func onlyText(into *string) func(*field) {
	return func(f *field) {
		if f.number == 1 {
			*into = f.text()
		} else {
			f.unknown()
		}
	}
}

// onlyUint reads the fields of a message that has no other than the number 1.
func onlyUint(into *uint64) func(*field) {
	return func(f *field) {
		if f.number == 1 {
			*into = f.uint()
		} else {
			f.unknown()
		}
	}
}

func (f *field) each(message []byte, read func(*field)) {
	for len(message) > 0 && f.err == nil {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			f.fail(fmt.Errorf("malformed field: %w", protowire.ParseError(n)))
			return
		}
		message = message[n:]
		*f = field{number: number, kind: kind}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(message)
		default:
			f.fail(fmt.Errorf("field %d has wire type %d, which is not known to this build: a newer build wrote it", number, kind))
			return
		}
		if n < 0 {
			f.fail(fmt.Errorf("malformed field %d: %w", number, protowire.ParseError(n)))
			return
		}
		message = message[n:]
		read(f)
	}
}

func (f *field) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *field) unknown() {
	f.fail(fmt.Errorf("field %d is not known to this build: a newer build wrote it", f.number))
}

func (f *field) expect(kind protowire.Type) bool {
	if f.kind != kind {
		f.fail(fmt.Errorf("field %d has wire type %d instead of %d", f.number, f.kind, kind))
	}
	return f.kind == kind
}

// text returns the field as a string. It does not allocate for words that nearly all nodes
// share.
func (f *field) text() string {
	if !f.expect(protowire.BytesType) {
		return ""
	}
	switch string(f.bytes) {
	case domain.DefaultPool:
		return domain.DefaultPool
	case string(domain.Active):
		return string(domain.Active)
	}
	return string(f.bytes)
}

func (f *field) uint() uint64 {
	if !f.expect(protowire.VarintType) {
		return 0
	}
	return f.varint
}

func (f *field) int() int {
	v := f.uint()
	if v > math.MaxInt32 {
		f.fail(fmt.Errorf("field %d is out of range: %d", f.number, v))
		return 0
	}
	return int(v)
}

func (f *field) message(read func(*field)) {
	if !f.expect(protowire.BytesType) {
		return
	}
	outer := *f
	f.each(outer.bytes, read)
	outer.err = f.err
	*f = outer
}
