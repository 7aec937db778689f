package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A log entry is
//
//	version (1 byte) | kind (1 byte) | body | CRC-32C of all before (4 bytes, little endian)
//
// where the body is a message in protobuf's wire format, its fields in ascending order;
// fields that are commands are in the order in which they are applied. Every version that
// was ever written stays readable. A build that meets an unknown version, kind or field must
// stop: a replica that skips an entry diverges from the others.
const entryVersion = 1

type entryKind byte

const (
	kindOpening    entryKind = 1
	kindRegister   entryKind = 2
	kindDeregister entryKind = 3
	kindBatch      entryKind = 4
	kindExpire     entryKind = 5
	kindRevive     entryKind = 6
	kindPromotion  entryKind = 7

	kindRestorePart   entryKind = 8
	kindRestoreCommit entryKind = 9
	kindRestoreAbort  entryKind = 10

	kindGroup entryKind = 11
)

// entryHeader is the size of version and kind.
const entryHeader = 2

// Opening is the first entry of a leader's term: once it is applied, so is all
// that earlier leaders committed, and the leader may serve. The first Opening of
// a cluster names it.
type Opening struct {
	ClusterID string
}

// Promotion requests that the instance ID becomes a voter. Settled withdraws the request,
// because the instance is a voter or has left.
type Promotion struct {
	ID      string
	Settled bool
}

// CommandGroup holds the commands of several writers in one entry. They are applied one after
// the other, as if each had an entry of its own.
type CommandGroup []domain.Command

// ErrChecksum is returned for data that does not match its checksum.
var ErrChecksum = errors.New("checksum mismatch: the data is damaged")

var (
	errTruncated = errors.New("the data ends too early")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

const checksumSize = 4

// EncodeEntry encodes an Opening, a Promotion, a RestorePart, a RestoreCommit, a RestoreAbort, a
// domain.Command or a CommandGroup. It panics for any other type: no replica could read it.
func EncodeEntry(entry any) []byte {
	b := append(make([]byte, 0, 256), entryVersion, byte(kindOf(entry)))
	switch entry := entry.(type) {
	case Opening:
		b = appendString(b, 1, entry.ClusterID)
	case Promotion:
		b = appendString(b, 1, entry.ID)
		if entry.Settled {
			b = appendUint(b, 2, 1)
		}
	case RestorePart, RestoreCommit, RestoreAbort:
		b = appendRestore(b, entry)
	case domain.Command:
		b = appendCommand(b, entry)
	case CommandGroup:
		for _, cmd := range entry {
			b = appendGroupMember(b, EncodeEntry(cmd))
		}
	}
	return appendChecksum(b)
}

// IsCommand reports whether entry, as returned by EncodeEntry, is a single domain.Command.
func IsCommand(entry []byte) bool {
	switch entryKind(entry[1]) {
	case kindRegister, kindDeregister, kindBatch, kindExpire, kindRevive:
		return true
	}
	return false
}

// JoinEntries returns one encoded CommandGroup with the commands of entries. Each of these must
// be a single encoded command: see IsCommand.
func JoinEntries(entries [][]byte) []byte {
	size := entryHeader + checksumSize
	for _, entry := range entries {
		size += len(entry)
	}
	b := append(make([]byte, 0, size), entryVersion, byte(kindGroup))
	for _, entry := range entries {
		b = appendGroupMember(b, entry)
	}
	return appendChecksum(b)
}

// appendGroupMember appends an encoded command to the body of a CommandGroup. The field
// number is the kind of the command.
func appendGroupMember(b, entry []byte) []byte {
	b = protowire.AppendTag(b, protowire.Number(entry[1]), protowire.BytesType)
	return protowire.AppendBytes(b, entry[entryHeader:len(entry)-checksumSize])
}

func kindOf(entry any) entryKind {
	switch entry.(type) {
	case Opening:
		return kindOpening
	case Promotion:
		return kindPromotion
	case RestorePart:
		return kindRestorePart
	case RestoreCommit:
		return kindRestoreCommit
	case RestoreAbort:
		return kindRestoreAbort
	case domain.Register:
		return kindRegister
	case domain.Deregister:
		return kindDeregister
	case domain.Batch:
		return kindBatch
	case domain.Expire:
		return kindExpire
	case domain.Revive:
		return kindRevive
	case CommandGroup:
		return kindGroup
	}
	panic(fmt.Sprintf("codec: no format for an entry of type %T", entry))
}

func appendCommand(b []byte, cmd domain.Command) []byte {
	switch cmd := cmd.(type) {
	case domain.Register:
		b = appendNodeMessage(b, 1, &cmd.Node)
		b = appendCondition(b, 2, cmd.If)
	case domain.Deregister:
		b = appendString(b, 1, cmd.ID)
		b = appendCondition(b, 2, cmd.If)
	case domain.Batch:
		// The field number is the kind of the command.
		for _, one := range cmd.Commands {
			kind := kindOf(one)
			if kind != kindRegister && kind != kindDeregister {
				// No replica could read it after it is committed.
				panic(fmt.Sprintf("codec: no format for a %T in a batch", one))
			}
			b = appendMessage(b, protowire.Number(kind), func(b []byte) []byte { return appendCommand(b, one) })
		}
	case domain.Expire:
		for _, n := range cmd.Nodes {
			b = appendMessage(b, 1, func(b []byte) []byte {
				b = appendString(b, 1, n.ID)
				return appendUint(b, 2, uint64(n.Revision))
			})
		}
	case domain.Revive:
		b = appendString(b, 1, cmd.ID)
	}
	return b
}

// DecodeEntry is the inverse of EncodeEntry. It does not retain data. An error means that
// neither this entry nor any later one may be applied: data is damaged (see VerifyEntry), or a
// newer build wrote it.
func DecodeEntry(data []byte) (any, error) {
	body, err := verifyChecksum(data)
	if err != nil {
		return nil, err
	}
	if len(body) < entryHeader {
		return nil, errTruncated
	}
	version, kind, body := body[0], entryKind(body[1]), body[entryHeader:]
	if version != entryVersion {
		return nil, fmt.Errorf("entry has format version %d, this build reads %d: a newer build wrote it", version, entryVersion)
	}
	switch kind {
	case kindOpening:
		return decodeOpening(body)
	case kindPromotion:
		return decodePromotion(body)
	case kindRestorePart:
		return decodeRestorePart(body)
	case kindRestoreCommit:
		return decodeRestoreCommit(body)
	case kindRestoreAbort:
		return decodeRestoreAbort(body)
	case kindGroup:
		return decodeGroup(body)
	}
	return decodeCommand(kind, body)
}

// VerifyEntry returns an error unless data is an entry as it was encoded: ErrChecksum, or
// another error if data is too short to have a checksum. It does not decode the entry, which
// may be of a kind that this build does not know.
func VerifyEntry(data []byte) error {
	_, err := verifyChecksum(data)
	return err
}

func decodeOpening(body []byte) (Opening, error) {
	var entry Opening
	err := readFields(body, onlyText(&entry.ClusterID))
	return entry, err
}

func decodePromotion(body []byte) (Promotion, error) {
	var entry Promotion
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			entry.ID = f.text()
		case 2:
			entry.Settled = f.uint() != 0
		default:
			f.unknown()
		}
	})
	if err == nil && entry.ID == "" {
		err = errors.New("a promotion of nobody")
	}
	return entry, err
}

func decodeCommand(kind entryKind, body []byte) (domain.Command, error) {
	switch kind {
	case kindRegister:
		return decodeRegister(body)
	case kindDeregister:
		return decodeDeregister(body)
	case kindBatch:
		return decodeBatch(body)
	case kindExpire:
		return decodeExpire(body)
	case kindRevive:
		return decodeRevive(body)
	}
	return nil, fmt.Errorf("entry is of kind %d, which this build does not know: a newer build wrote it", kind)
}

func decodeGroup(body []byte) (CommandGroup, error) {
	var commands CommandGroup
	err := readFields(body, func(f *field) {
		if !f.expect(protowire.BytesType) {
			return
		}
		if f.number > math.MaxUint8 {
			f.unknown()
			return
		}
		cmd, err := decodeCommand(entryKind(f.number), f.bytes)
		if err != nil {
			f.fail(err)
			return
		}
		commands = append(commands, cmd)
	})
	return commands, err
}

func decodeRegister(body []byte) (domain.Register, error) {
	var cmd domain.Register
	given := false
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			cmd.Node, given = f.node(), true
		case 2:
			cmd.If = f.condition()
		default:
			f.unknown()
		}
	})
	if err == nil && !given {
		err = errors.New("a registration of nothing")
	}
	return cmd, err
}

func decodeDeregister(body []byte) (domain.Deregister, error) {
	var cmd domain.Deregister
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			cmd.ID = f.text()
		case 2:
			cmd.If = f.condition()
		default:
			f.unknown()
		}
	})
	return cmd, err
}

func decodeBatch(body []byte) (domain.Batch, error) {
	var cmd domain.Batch
	err := readFields(body, func(f *field) {
		if !f.expect(protowire.BytesType) {
			return
		}
		var one domain.Command
		var err error
		switch f.number {
		case protowire.Number(kindRegister):
			one, err = decodeRegister(f.bytes)
		case protowire.Number(kindDeregister):
			one, err = decodeDeregister(f.bytes)
		default:
			f.unknown()
			return
		}
		if err != nil {
			f.fail(err)
			return
		}
		cmd.Commands = append(cmd.Commands, one)
	})
	return cmd, err
}

func decodeExpire(body []byte) (domain.Expire, error) {
	var cmd domain.Expire
	err := readFields(body, func(f *field) {
		if f.number != 1 {
			f.unknown()
			return
		}
		var n domain.NodeAt
		f.message(func(f *field) {
			switch f.number {
			case 1:
				n.ID = f.text()
			case 2:
				n.Revision = domain.Revision(f.uint())
			default:
				f.unknown()
			}
		})
		cmd.Nodes = append(cmd.Nodes, n)
	})
	return cmd, err
}

func decodeRevive(body []byte) (domain.Revive, error) {
	var cmd domain.Revive
	err := readFields(body, onlyText(&cmd.ID))
	return cmd, err
}

func appendCondition(b []byte, number protowire.Number, c domain.Condition) []byte {
	if c == (domain.Condition{}) {
		return b
	}
	return appendMessage(b, number, func(b []byte) []byte {
		b = appendUint(b, 1, uint64(c.Expect))
		return appendUint(b, 2, uint64(c.Revision))
	})
}

func (f *field) condition() domain.Condition {
	var c domain.Condition
	f.message(func(f *field) {
		switch f.number {
		case 1:
			expect := f.uint()
			if expect > uint64(domain.AtRevision) {
				f.fail(fmt.Errorf("condition of unknown kind %d: a newer build wrote it", expect))
				return
			}
			c.Expect = domain.Expectation(expect)
		case 2:
			c.Revision = domain.Revision(f.uint())
		default:
			f.unknown()
		}
	})
	return c
}

func appendChecksum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func verifyChecksum(data []byte) ([]byte, error) {
	if len(data) < checksumSize {
		return nil, errTruncated
	}
	body, sum := data[:len(data)-checksumSize], data[len(data)-checksumSize:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil, ErrChecksum
	}
	return body, nil
}
