package frames

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// valueOf returns a MessagePack value that begins with the byte first. Its content, which
// needs no check, would be refused in any other place.
func valueOf(first byte) []byte {
	hidden := func(n int) []byte { return bytes.Repeat([]byte{0xc1}, n) }
	long := func(width int, length uint64) []byte {
		return binary.BigEndian.AppendUint64(nil, length)[8-width:]
	}
	join := func(parts ...[]byte) []byte { return append([]byte{first}, bytes.Join(parts, nil)...) }
	list := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	members := func(n int) []byte { return bytes.Repeat([]byte(textOf("k")+"\x01"), n) }
	width := func(from byte) int { return 1 << (first - from) }
	switch {
	case first <= 0x7f, first >= 0xe0, first == 0xc0, first == 0xc2, first == 0xc3:
		return join()
	case first <= 0x8f:
		return join(members(int(first - 0x80)))
	case first <= 0x9f:
		return join(list(int(first - 0x90)))
	case first <= 0xbf:
		return join(hidden(int(first - 0xa0)))
	case first <= 0xc6:
		return join(long(width(0xc4), 5), hidden(5))
	case first <= 0xc9:
		return join(long(width(0xc7), 5), hidden(1+5))
	case first <= 0xcb:
		return join(hidden(4 * width(0xca)))
	case first <= 0xcf:
		return join(hidden(width(0xcc)))
	case first <= 0xd3:
		return join(hidden(width(0xd0)))
	case first <= 0xd8:
		return join(hidden(1 + width(0xd4)))
	case first <= 0xdb:
		return join(long(width(0xd9), 5), hidden(5))
	case first <= 0xdd:
		return join(long(2*width(0xdc), 5), list(5))
	}
	return join(long(2*width(0xde), 5), members(5))
}

// newFrames returns the check of a connection on which a peer sends requests.
func newFrames() *frameChecker { return &New(limits).Requests(nil).(*checkedConn).frames }

func TestTheLengthOfEveryKindOfValue(t *testing.T) {
	for first := range 256 {
		if first == 0xc1 {
			continue // begins no value
		}
		said := "\x00\x82" + textOf("Later") + string(valueOf(byte(first))) + textOf("Term") + "\x01"
		f := newFrames()
		for at := range len(said) {
			if _, err := f.check([]byte(said[at : at+1])); err != nil {
				t.Fatalf("value %#x: byte %d of %q is refused: %v", first, at, said, err)
			}
			if whole := at == len(said)-1; (f.step == atFrame) != whole {
				t.Fatalf("value %#x: message %q ends after %d bytes, want the last one", first, said, at+1)
			}
		}
	}
}

func TestTheLengthsThatAPeerMayAnnounce(t *testing.T) {
	number := func(width int, n uint64) string {
		return string(binary.BigEndian.AppendUint64(nil, n)[8-width:])
	}
	member := "\x00" + objectOf("Later")
	snapshot := func(size string) string {
		return "\x02\x82" + textOf("ProtocolVersion") + "\x03" + textOf("Size") + size
	}
	tests := map[string]struct {
		fits, over string
	}{
		"a long name": {
			"\x00\x81\xd9" + number(1, maxName) + strings.Repeat("n", maxName), "\x00\x81\xd9" + number(1, maxName+1)},
		"a name of a type other than text":       {"\x00\x81\xa1", "\x00\x81\x01"},
		"a short name of a type other than text": {member + "\x81\xa1", member + "\x81\x01"},
		"a name that is nil":                     {member + "\x81\xa0", member + "\x81\xc0"},
		"a message that is no map":               {"\x00\x81", "\x00\x91"},
		"a value of an unused type":              {member + "\xc0", member + "\xc1"},
		"the number of an RPC":                   {"\x04", "\x05"},
		"members":                                {"\x00\xde" + number(2, maxMembers), "\x00\xde" + number(2, maxMembers+1)},
		"elements":                               {member + "\xdd" + number(4, uint64(limits.MaxElements)), member + "\xdd" + number(4, uint64(limits.MaxElements)+1)},
		"a long block":                           {member + "\xc6" + number(4, uint64(limits.MaxField)), member + "\xc6" + number(4, uint64(limits.MaxField)+1)},
		"a long extension":                       {member + "\xc7" + number(1, maxExtension-1), member + "\xc7" + number(1, maxExtension)},
		"lists in lists":                         {member + strings.Repeat("\x91", maxNesting-1), member + strings.Repeat("\x91", maxNesting)},
		"a large snapshot":                       {snapshot("\xcf" + number(8, maxSnapshot)), snapshot("\xcf" + number(8, maxSnapshot+1))},
		"the latest version":                     {snapshot("\x01"), "\x02\x82" + textOf("ProtocolVersion") + "\x04" + textOf("Size") + "\x01"},
		"a snapshot of its size":                 {snapshot("\x02") + "ok", snapshot("\x02") + "ok\x03\x80"},
		"a snapshot behind a request that has a version": {
			"\x00" + objectOf("ProtocolVersion") + "\x03" + snapshot("\x02"),
			"\x00" + objectOf("ProtocolVersion") + "\x03\x02" + objectOf("Size") + "\x02"},
		"a snapshot behind a request that has a size": {
			"\x00" + objectOf("Size") + "\x02" + snapshot("\x02") + "ok",
			"\x00" + objectOf("Size") + "\x02\x02" + objectOf("ProtocolVersion") + "\x03ok"},
		"a version, and then a text": {
			"\x02\x82" + textOf("ProtocolVersion") + "\x02" + textOf("Later") + "\xa1x",
			"\x02\x82" + textOf("ProtocolVersion") + "\x01" + textOf("Later") + "\xa1x"},
		"a negative size of four bytes": {snapshot("\xd2" + number(4, 1<<31-1)), snapshot("\xd2" + number(4, 1<<31))},
		"a negative size of one byte":   {snapshot("\xd0" + number(1, 1<<7-1)), snapshot("\xd0" + number(1, 1<<7))},
		"a fractional size":             {snapshot("\x7f"), snapshot("\xca" + number(4, 0))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if n, err := newFrames().check([]byte(test.fits)); n != len(test.fits) || err != nil {
				t.Errorf("check of an allowed value = %d of %d bytes, %v, want all", n, len(test.fits), err)
			}
			if n, err := newFrames().check([]byte(test.over)); n >= len(test.over) || !errors.Is(err, ErrHostile) {
				t.Errorf("check of a refused value = %d of %d bytes, %v, want ErrHostile", n, len(test.over), err)
			}
		})
	}
}

// An answer begins with the error, here none. Its length is bounded both for one long value
// and for many short ones.
func TestAnAnswerIsBoundedAsAWhole(t *testing.T) {
	number := func(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	long := func(bytes int) string {
		head := objectOf("ID") + "\xc6"
		rest := bytes - len(head) - 4
		return head + number(rest) + strings.Repeat("x", rest)
	}
	list := "\xdd" + number(limits.MaxElements) + strings.Repeat("\x01", limits.MaxElements)
	tests := map[string]struct {
		message string
		fits    bool
	}{
		"a value of the allowed length": {long(maxAnswer), true},
		"a value that is a byte longer": {long(maxAnswer + 1), false},
		"a million numbers":             {objectOf("Later") + "\xdd" + number(limits.MaxElements) + strings.Repeat(list, limits.MaxElements), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := &New(limits).Answers(nil).(*checkedConn).frames
			if _, err := f.check([]byte("\xa0" + test.message)); (err == nil) != test.fits || err != nil && !errors.Is(err, ErrHostile) {
				t.Errorf("check = %v, want ErrHostile if the answer is too long", err)
			}
		})
	}
}
