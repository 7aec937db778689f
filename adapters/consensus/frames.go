package consensus

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Raft's decoder believes the lengths that it is told: sixteen bytes that announce
// two billion entries run the process out of memory. So what a peer sends is
// looked at on its way to the decoder, which never sees a length that is over
// these bounds. They are far over what an instance sends.
const (
	// maxField bounds a text or a block of bytes, an entry above all; no write that
	// is longer gets into the log: see maxPending.
	maxField = maxPending
	// maxElements bounds an array.
	maxElements = 4 * maxBatch
	// maxMembers bounds a map; raft's messages have half as many.
	maxMembers = 32
	// maxName bounds a key of a map, and maxExtension a time.
	maxName      = 64
	maxExtension = 32
	// maxNesting: a message, its entries, one of them, and a list of numbers in
	// place of bytes.
	maxNesting = 4
	// maxIncoming bounds the messages that are on their way in, of all peers
	// together. One peer sends 256 entries at a time, and one after the other.
	maxIncoming = 512 << 20
	// maxAnswer bounds an answer to an RPC.
	maxAnswer = 1 << 20
	// maxSnapshot bounds a snapshot, which goes to the disk.
	maxSnapshot = 4 << 30
)

// The RPCs of raft.NetworkTransport, by the byte before each.
const (
	rpcInstallSnapshot = 2
	rpcLast            = 4
)

var errHostileFrame = errors.New("not what an instance sends")

func hostile(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errHostileFrame, fmt.Errorf(format, args...))
}

// checked is raft's way to the network, on which no peer says anything that would
// cost more than it has sent.
type checked struct {
	raft.StreamLayer
	incoming *atomic.Int64 // bytes of messages that are not complete
}

func newChecked(s raft.StreamLayer) checked { return checked{s, &atomic.Int64{}} }

// Accept implements net.Listener.
func (c checked) Accept() (net.Conn, error) {
	conn, err := c.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return &checkedConn{Conn: conn, frames: frames{requests: true, part: part{all: c.incoming}, limit: maxIncoming}}, nil
}

// Dial implements raft.StreamLayer.
func (c checked) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := c.StreamLayer.Dial(to, timeout)
	if err != nil {
		return nil, err
	}
	return &checkedConn{Conn: conn, frames: frames{part: part{all: c.incoming}, limit: maxAnswer}}, nil
}

// checkedConn is read by one goroutine, and written by one.
//
// It has no patience with a snapshot that stands still. Raft 1.7.3 waits for one on its
// way in as long as the connection lasts, in its main goroutine, which votes for nobody
// meanwhile; and on its way out as long as all of it may take, minutes where it is large,
// while its follower may be back at another address.
type checkedConn struct {
	net.Conn
	frames frames
	fault  error
}

// Read gives nothing of what is refused, nor anything after it.
func (c *checkedConn) Read(p []byte) (int, error) {
	if c.fault != nil {
		return 0, c.fault
	}
	snapshot := c.frames.step == inSnapshot
	if snapshot {
		if err := c.Conn.SetReadDeadline(time.Now().Add(rpcTimeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	fine, fault := c.frames.check(p[:n])
	if snapshot {
		c.fault = err // raft reads on, to come to the end of it
		if c.frames.step != inSnapshot {
			_ = c.Conn.SetReadDeadline(time.Time{}) // it may take long to restore
		}
	}
	if fault == nil {
		return n, err
	}
	c.fault = fault
	return fine, fault
}

// Write sends a part of a message, which takes no longer than an RPC may: of a snapshot
// raft writes 256 KiB at a time.
func (c *checkedConn) Write(p []byte) (int, error) {
	if !c.frames.requests {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(rpcTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *checkedConn) Close() error {
	c.frames.part.giveBack()
	return c.Conn.Close()
}

// frames follows what comes in on one connection, byte by byte where lengths are:
// requests, each a byte that names it and a message (a map) in MessagePack, one of
// them with a snapshot behind it; or answers, each a text and a message.
type frames struct {
	requests bool
	limit    int64 // of one message
	part     part

	step step
	used int64 // bytes of this message so far
	skip int64 // bytes to come that need no look, in inside and inSnapshot

	// What is being read in inNumber.
	now    token
	number uint64
	width  int

	rpc     byte
	nesting []nest
	naming  bool   // inside is a key of the message itself
	name    []byte // the last one
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

// nest is an array or a map that is not complete.
type nest struct {
	isMap bool
	left  int // values to come; of a map, keys count too
}

func (n nest) atKey() bool { return n.isMap && n.left%2 == 0 }

// token is what the first byte of a value says.
type token struct {
	kind  kind
	width int // bytes of a number or a length that follow
	size  int // the length, where none follows
}

type kind byte

const (
	scalar kind = iota // size bytes of no interest
	number
	negative // or a number that may be
	text
	extension
	array
	object
	unknown
)

// tokenOf is the table of MessagePack.
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

// check takes the bytes that came next, and says how many of them may go on. With
// an error nothing more may.
func (f *frames) check(p []byte) (fine int, err error) {
	for fine < len(p) {
		n, err := f.take(p[fine:])
		if err != nil {
			return fine, err
		}
		fine += n
	}
	if err := f.part.hold(f.used); err != nil {
		return 0, err
	}
	return fine, nil
}

// part is what one connection has of the bytes that are on their way in.
type part struct {
	all *atomic.Int64

	mu     sync.Mutex // Close comes from anywhere
	held   int64
	closed bool
}

func (p *part) hold(n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	all := p.all.Add(n - p.held)
	p.held = n
	if all > maxIncoming {
		return hostile("messages of more than %d bytes at once, of all peers", maxIncoming)
	}
	return nil
}

func (p *part) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.Add(-p.held)
	p.held, p.closed = 0, true
}

// take looks at some of p, at least at one byte.
func (f *frames) take(p []byte) (int, error) {
	switch f.step {
	case inside, inSnapshot:
		n := int(min(f.skip, int64(len(p))))
		if f.naming {
			f.name = append(f.name, p[:n]...)
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
			return n, f.completed()
		}
		return n, nil
	case atEnd:
		return 0, hostile("something follows a snapshot")
	case atFrame:
		if f.requests {
			return 1, f.begin(p[0])
		}
		f.step = atValue // an answer begins with its first value
	}
	if err := f.count(1); err != nil {
		return 0, err
	}
	if f.step == inNumber {
		f.number = f.number<<8 | uint64(p[0])
		if f.width--; f.width > 0 {
			return 1, nil
		}
		return 1, f.value(f.now, f.number)
	}
	now := tokenOf(p[0])
	if now.width > 0 {
		f.now, f.number, f.width, f.step = now, 0, now.width, inNumber
		return 1, nil
	}
	if now.kind == number {
		return 1, f.value(now, uint64(p[0]))
	}
	return 1, f.value(now, uint64(now.size))
}

// begin takes the byte that names a request.
func (f *frames) begin(rpc byte) error {
	if rpc > rpcLast {
		return hostile("there is no RPC %d", rpc)
	}
	f.rpc, f.size, f.version, f.name = rpc, 0, 0, f.name[:0]
	f.step = atValue
	return nil
}

// value takes a value's beginning, with its number or its length.
func (f *frames) value(v token, n uint64) error {
	f.step, f.skip = atValue, 0
	top := len(f.nesting) - 1
	atKey := top >= 0 && f.nesting[top].atKey()
	switch {
	case v.kind == unknown:
		return hostile("a value of no kind")
	case atKey && (v.kind != text || n > maxName):
		return hostile("a key that is no name")
	case top < 0 && f.requests && v.kind != object:
		return hostile("a message that is no map")
	}
	if atKey && top == 0 {
		f.naming, f.name = true, f.name[:0]
	} else if top == 0 {
		if err := f.note(v, n); err != nil {
			return err
		}
	}
	switch v.kind {
	case array:
		return f.open(nest{}, n, maxElements)
	case object:
		return f.open(nest{isMap: true}, n, maxMembers)
	case text:
		return f.pass(n, maxField)
	case extension:
		return f.pass(n+1, maxExtension) // its type is a byte more
	case scalar:
		return f.pass(n, maxExtension)
	}
	return f.completed()
}

// note keeps the members of a message that say how much follows it, and whether
// raft will read that.
func (f *frames) note(v token, n uint64) error {
	var member *uint64
	switch string(f.name) {
	case "Size":
		member = &f.size
	case "ProtocolVersion":
		member = &f.version
	default:
		return nil
	}
	signed := v.kind == negative && v.width > 0 && n < 1<<(8*v.width-1) // and yet not negative
	if v.kind != number && !signed {
		return hostile("%s is not a number from 0", f.name)
	}
	*member = n
	return nil
}

func (f *frames) open(into nest, n uint64, most int) error {
	switch {
	case n > uint64(most):
		return hostile("%d values at once, more than %d", n, most)
	case len(f.nesting) == maxNesting:
		return hostile("values more than %d deep", maxNesting)
	case n == 0:
		return f.completed()
	}
	into.left = int(n)
	if into.isMap {
		into.left *= 2
	}
	f.nesting = append(f.nesting, into)
	return nil
}

func (f *frames) pass(n uint64, most int64) error {
	if n > uint64(most) {
		return hostile("a value of %d bytes, more than %d", n, most)
	}
	if n == 0 {
		return f.completed()
	}
	f.step, f.skip = inside, int64(n)
	return nil
}

// completed is called at the end of each value.
func (f *frames) completed() error {
	f.step, f.naming = atValue, false
	for top := len(f.nesting) - 1; top >= 0; top-- {
		if f.nesting[top].left--; f.nesting[top].left > 0 {
			return nil
		}
		f.nesting = f.nesting[:top]
	}
	f.step, f.used = atFrame, 0
	if !f.requests || f.rpc != rpcInstallSnapshot {
		return nil
	}
	switch {
	case f.version < uint64(raft.ProtocolVersionMax)-1 || f.version > uint64(raft.ProtocolVersionMax):
		// Raft would not read it, and take what is in it for the next request.
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

// count notes n more bytes of a message.
func (f *frames) count(n int) error {
	if f.used += int64(n); f.used > f.limit {
		return hostile("a message of more than %d bytes", f.limit)
	}
	return nil
}

// maxSend is how many bytes of entries go into one message, if it is more than
// one: a follower that is far behind is to have each in time.
const maxSend = 1 << 20

// fit leaves away the last entries of a message that is too long. Raft goes on
// behind the last that was sent.
func fit(args *raft.AppendEntriesRequest) { args.Entries = first(args.Entries, maxSend) }

// first gives as many of entries as have no more than so many bytes, but one at least.
func first(entries []*raft.Log, bytes int) []*raft.Log {
	sum := 0
	for i, entry := range entries {
		sum += len(entry.Data) + len(entry.Extensions)
		if sum > bytes && i > 0 {
			return entries[:i]
		}
	}
	return entries
}
