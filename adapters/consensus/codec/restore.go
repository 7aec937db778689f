package codec

import (
	"errors"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A backup may be hundreds of megabytes, which is too much for one log entry: an entry that
// takes long to send delays all entries after it. So a backup goes through the log in parts,
// which every replica stages, and a commit that applies all of them in one step. Until then
// the registry is unchanged.

// RestorePart is one part of the restore ID. Parts are numbered from 0. Part 0 replaces
// whatever was staged before.
type RestorePart struct {
	ID     string
	Number int
	Nodes  []*domain.CacheNode
}

// RestoreCommit replaces the registry with the staged nodes of the restore ID, if that many
// Parts are staged, and Expected is nil or the registry's revision.
type RestoreCommit struct {
	ID       string
	Parts    int
	Expected *domain.Revision
}

// RestoreAbort drops the staged parts of the restore ID, which was given up.
type RestoreAbort struct {
	ID string
}

func appendRestore(b []byte, entry any) []byte {
	switch entry := entry.(type) {
	case RestorePart:
		b = appendString(b, 1, entry.ID)
		b = appendUint(b, 2, uint64(entry.Number))
		for _, n := range entry.Nodes {
			b = appendNodeMessage(b, 3, n)
		}
	case RestoreCommit:
		b = appendString(b, 1, entry.ID)
		b = appendUint(b, 2, uint64(entry.Parts))
		if entry.Expected != nil {
			b = appendMessage(b, 3, func(b []byte) []byte { return appendUint(b, 1, uint64(*entry.Expected)) })
		}
	case RestoreAbort:
		b = appendString(b, 1, entry.ID)
	}
	return b
}

var errNoRestoreID = errors.New("a restore without an id")

func decodeRestorePart(body []byte) (RestorePart, error) {
	var part RestorePart
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			part.ID = f.text()
		case 2:
			part.Number = f.int()
		case 3:
			n := f.node()
			part.Nodes = append(part.Nodes, &n)
		default:
			f.unknown()
		}
	})
	if err == nil && part.ID == "" {
		err = errNoRestoreID
	}
	return part, err
}

func decodeRestoreCommit(body []byte) (RestoreCommit, error) {
	var c RestoreCommit
	err := readFields(body, func(f *field) {
		switch f.number {
		case 1:
			c.ID = f.text()
		case 2:
			c.Parts = f.int()
		case 3:
			c.Expected = f.revision()
		default:
			f.unknown()
		}
	})
	if err == nil && c.ID == "" {
		err = errNoRestoreID
	}
	return c, err
}

// revision reads an optional revision, which may be 0.
func (f *field) revision() *domain.Revision {
	var revision uint64
	f.message(onlyUint(&revision))
	return (*domain.Revision)(&revision)
}

func decodeRestoreAbort(body []byte) (RestoreAbort, error) {
	var a RestoreAbort
	err := readFields(body, onlyText(&a.ID))
	if err == nil && a.ID == "" {
		err = errNoRestoreID
	}
	return a, err
}
