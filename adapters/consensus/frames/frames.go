package frames

import "fmt"

// Raft's decoder trusts the lengths in a message: sixteen bytes that announce two billion
// entries make the process run out of memory. So everything that a peer sends is checked on
// its way to the decoder, which never sees a length above these bounds. They are far above
// what an instance sends.
const (
	// maxMembers bounds a map; raft's messages have half as many.
	maxMembers = 32
	// maxName bounds a key of a map, and maxExtension a time.
	maxName      = 64
	maxExtension = 32
	// maxNesting allows for a message, its entries, one of them, and an array of numbers
	// in place of bytes.
	maxNesting = 4
	// maxIncoming bounds the incomplete messages of all peers together. A peer sends one
	// message of up to 256 entries at a time.
	maxIncoming = 512 << 20
	// maxAnswer bounds an answer to an RPC.
	maxAnswer = 1 << 20
	// maxSnapshot bounds a snapshot, which is written to the disk.
	maxSnapshot = 4 << 30
)

// The RPCs of raft.NetworkTransport, by the byte before each.
const (
	rpcInstallSnapshot = 2
	rpcLast            = 4
)

func hostile(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrHostile, fmt.Errorf(format, args...))
}

// frameChecker parses what comes in on one connection, without keeping it. These are either
// requests, each a byte for the RPC and a message (a map) in MessagePack, of which
// InstallSnapshot is followed by a snapshot; or answers, each a string and a message.
type frameChecker struct {
	config   *Config
	requests bool
	limit    int64 // of one message
	quota    byteQuota

	step step
	used int64 // bytes of this message so far
	skip int64 // bytes to come that are not parsed, in steps inside and inSnapshot

	// What is being read in step inNumber.
	now    token
	number uint64
	width  int

	rpc     byte
	stack   []container
	inKey   bool   // step inside is in a key of the message itself
	key     []byte // the last key of the message
	size    uint64
	version uint64
}

type step byte

const (
	atFrame    step = iota // a request begins
	atValue                // a value begins
	inNumber               // width more bytes of a number or a length
	inside                 // skip more bytes of a value
	inSnapshot             // skip more bytes of a snapshot
	atEnd                  // nothing may follow
)

// container is an incomplete array or map.
type container struct {
	isMap bool
	left  int // values to come; in a map, keys count too
}

func (n container) atKey() bool { return n.isMap && n.left%2 == 0 }

// token is the meaning of the first byte of a value.
type token struct {
	kind  kind
	width int // bytes of the number or length that follows
	size  int // the length, if none follows
}

type kind byte

const (
	scalar kind = iota // size bytes of no interest
	number
	negative // or a signed number that may be
	text
	extension
	array
	object
	unknown
)

// tokenOf is MessagePack's table of formats.
func tokenOf(b byte) token {
	switch {
	case b <= 0x7f:
		return token{kind: number}
	case b <= 0x8f:
		return token{kind: object, size: int(b & 0x0f)}
	case b <= 0x9f:
		return token{kind: array, size: int(b & 0x0f)}
	case b <= 0xbf:
		return token{kind: text, size: int(b & 0x1f)}
	case b >= 0xe0:
		return token{kind: negative}
	}
	switch b {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return token{kind: scalar}
	case 0xc4, 0xc5, 0xc6:
		return token{kind: text, width: 1 << (b - 0xc4)}
	case 0xc7, 0xc8, 0xc9:
		return token{kind: extension, width: 1 << (b - 0xc7)}
	case 0xca, 0xcb:
		return token{kind: scalar, size: 4 << (b - 0xca)}
	case 0xcc, 0xcd, 0xce, 0xcf:
		return token{kind: number, width: 1 << (b - 0xcc)}
	case 0xd0, 0xd1, 0xd2, 0xd3:
		return token{kind: negative, width: 1 << (b - 0xd0)}
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return token{kind: extension, size: 1 << (b - 0xd4)}
	case 0xd9, 0xda, 0xdb:
		return token{kind: text, width: 1 << (b - 0xd9)}
	case 0xdc, 0xdd:
		return token{kind: array, width: 2 << (b - 0xdc)}
	case 0xde, 0xdf:
		return token{kind: object, width: 2 << (b - 0xde)}
	}
	return token{kind: unknown}
}

// check parses the next bytes, and returns how many of them raft may read. After an error
// it may read no more.
func (f *frameChecker) check(p []byte) (fine int, err error) {
	for fine < len(p) {
		n, err := f.consume(p[fine:])
		if err != nil {
			return fine, err
		}
		fine += n
	}
	if err := f.quota.reserve(f.used); err != nil {
		return 0, err
	}
	return fine, nil
}

// consume parses a prefix of p, at least one byte, and returns its length.
func (f *frameChecker) consume(p []byte) (int, error) {
	switch f.step {
	case inside, inSnapshot:
		n := int(min(f.skip, int64(len(p))))
		if f.inKey {
			f.key = append(f.key, p[:n]...)
		}
		f.skip -= int64(n)
		if f.step == inSnapshot {
			if f.skip == 0 {
				f.step = atEnd
			}
			return n, nil
		}
		if err := f.count(n); err != nil {
			return 0, err
		}
		if f.skip == 0 {
			return n, f.endValue()
		}
		return n, nil
	case atEnd:
		return 0, hostile("something follows a snapshot")
	case atFrame:
		if f.requests { // an answer has no byte before its first value
			return 1, f.beginRequest(p[0])
		}
	}
	if err := f.count(1); err != nil {
		return 0, err
	}
	if f.step == inNumber {
		f.number = f.number<<8 | uint64(p[0])
		if f.width--; f.width > 0 {
			return 1, nil
		}
		return 1, f.beginValue(f.now, f.number)
	}
	now := tokenOf(p[0])
	if now.width > 0 {
		f.now, f.number, f.width, f.step = now, 0, now.width, inNumber
		return 1, nil
	}
	if now.kind == number {
		return 1, f.beginValue(now, uint64(p[0]))
	}
	return 1, f.beginValue(now, uint64(now.size))
}

// beginRequest takes the byte of a request's RPC.
func (f *frameChecker) beginRequest(rpc byte) error {
	if rpc > rpcLast {
		return hostile("there is no RPC %d", rpc)
	}
	f.rpc, f.size, f.version = rpc, 0, 0
	f.step = atValue
	return nil
}

// beginValue begins a value, given its token and its number or length.
func (f *frameChecker) beginValue(v token, n uint64) error {
	f.step = atValue
	top := len(f.stack) - 1
	atKey := top >= 0 && f.stack[top].atKey()
	switch {
	case v.kind == unknown:
		return hostile("a value of no kind")
	case atKey && (v.kind != text || n > maxName):
		return hostile("a key that is no name")
	case top < 0 && f.requests && v.kind != object:
		return hostile("a message that is no map")
	}
	if atKey && top == 0 {
		f.inKey, f.key = true, f.key[:0]
	} else if top == 0 {
		if err := f.recordMember(v, n); err != nil {
			return err
		}
	}
	switch v.kind {
	case array:
		return f.enter(container{}, n, f.config.MaxElements)
	case object:
		return f.enter(container{isMap: true}, n, maxMembers)
	case text:
		return f.skipBytes(n, f.config.MaxField)
	case extension:
		return f.skipBytes(n+1, maxExtension) // its type is a byte more
	case scalar:
		return f.skipBytes(n, maxExtension)
	}
	return f.endValue()
}

// recordMember keeps the members of a message that say how long the snapshot after it is,
// and whether raft will read that.
func (f *frameChecker) recordMember(v token, n uint64) error {
	var member *uint64
	switch string(f.key) {
	case "Size":
		member = &f.size
	case "ProtocolVersion":
		member = &f.version
	default:
		return nil
	}
	signed := v.kind == negative && v.width > 0 && n < 1<<(8*v.width-1) // and yet not negative
	if v.kind != number && !signed {
		return hostile("%s is not a number from 0", f.key)
	}
	*member = n
	return nil
}

func (f *frameChecker) enter(into container, n uint64, most int) error {
	switch {
	case n > uint64(most):
		return hostile("%d values at once, more than %d", n, most)
	case len(f.stack) == maxNesting:
		return hostile("values more than %d deep", maxNesting)
	case n == 0:
		return f.endValue()
	}
	into.left = int(n)
	if into.isMap {
		into.left *= 2
	}
	f.stack = append(f.stack, into)
	return nil
}

func (f *frameChecker) skipBytes(n uint64, most int64) error {
	if n > uint64(most) {
		return hostile("a value of %d bytes, more than %d", n, most)
	}
	if n == 0 {
		return f.endValue()
	}
	f.step, f.skip = inside, int64(n)
	return nil
}

// endValue is called at the end of each value.
func (f *frameChecker) endValue() error {
	f.step, f.inKey = atValue, false
	for top := len(f.stack) - 1; top >= 0; top-- {
		if f.stack[top].left--; f.stack[top].left > 0 {
			return nil
		}
		f.stack = f.stack[:top]
	}
	f.step, f.used = atFrame, 0
	if !f.requests || f.rpc != rpcInstallSnapshot {
		return nil
	}
	switch {
	case f.version < f.config.ProtocolVersion-1 || f.version > f.config.ProtocolVersion:
		// Raft would not read the snapshot, but take it for the next request.
		return hostile("a snapshot of raft's protocol version %d", f.version)
	case f.size > maxSnapshot:
		return hostile("a snapshot of %d bytes, more than %d", f.size, uint64(maxSnapshot))
	case f.size == 0:
		f.step = atEnd
	default:
		f.step, f.skip = inSnapshot, int64(f.size)
	}
	return nil
}

// count adds n bytes to the size of the message.
func (f *frameChecker) count(n int) error {
	if f.used += int64(n); f.used > f.limit {
		return hostile("a message of more than %d bytes", f.limit)
	}
	return nil
}
