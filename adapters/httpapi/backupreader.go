package httpapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// longestLine is longer than the line of any node.
const longestLine = 64 << 10

// errDamagedBackup is the kind of all faults of a backup.
var errDamagedBackup = errors.New("damaged backup")

// readBackup reads body to its end, and returns an error unless the checksum in the last
// line is right. It holds no more than a registry can.
func readBackup(body io.Reader) (domain.Backup, error) {
	in := backupReader{lines: bufio.NewReaderSize(body, longestLine), sum: sha256.New()}
	head, err := in.head()
	if err != nil {
		return domain.Backup{}, err
	}
	backup := domain.Backup{ClusterID: head.ClusterID, Revision: head.Revision, Nodes: domain.NewReplacement()}
	for range head.Nodes {
		if err := in.node(backup.Nodes); err != nil {
			return domain.Backup{}, err
		}
	}
	return backup, in.trailer()
}

type backupReader struct {
	lines *bufio.Reader
	sum   hash.Hash // of all lines before the current one
	line  int
}

// next returns the next line, which is valid until the next call.
func (b *backupReader) next() ([]byte, error) {
	b.line++
	text, err := b.lines.ReadSlice('\n')
	switch {
	case err == nil:
		return text, nil
	case errors.Is(err, io.EOF) && b.line == 1 && len(text) == 0:
		return nil, refuse(errDamagedBackup, "there is no backup in the body: it is empty")
	case errors.Is(err, io.EOF):
		return nil, b.damaged("the backup ends here, and is not whole")
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, b.damaged("is longer than %d bytes", longestLine)
	case errors.Is(err, ports.ErrClosed):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(errSlowBody, "the backup took too long to arrive, at line %d", b.line)
	}
	return nil, b.damaged("the body ended early: %v", err)
}

func (b *backupReader) damaged(format string, args ...any) error {
	return refuse(errDamagedBackup, "line %d of the backup: %s", b.line, fmt.Sprintf(format, args...))
}

func (b *backupReader) head() (backupHead, error) {
	text, err := b.next()
	if err != nil {
		return backupHead{}, err
	}
	b.sum.Write(text) // never fails
	// A later version may have other members, and is not a damaged backup.
	var is struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := unmarshalLoosely(text, &is); err != nil || is.Format != backupFormat {
		return backupHead{}, b.damaged("this is no backup of a registry, which begins with %q", `{"format":"`+backupFormat+`"`)
	}
	if is.Version != backupVersion {
		return backupHead{}, b.damaged("the backup has format version %d, and this build reads %d: a newer build wrote it, or it is damaged",
			is.Version, backupVersion)
	}
	var head backupHead
	if err := decodeJSON(text, &head); err != nil {
		return backupHead{}, b.damaged("%v", err)
	}
	if head.Nodes < 0 || head.Nodes > domain.MaxNodes {
		return backupHead{}, b.damaged("it announces %d nodes, and a registry has at most %d", head.Nodes, domain.MaxNodes)
	}
	return head, nil
}

// storedBody is a node in a backup.
type storedBody struct {
	ID              string            `json:"id"`
	Address         string            `json:"address"`
	Pool            string            `json:"pool"`
	Weight          int               `json:"weight"`
	Zone            string            `json:"zone"`
	Labels          map[string]string `json:"labels"`
	State           domain.State      `json:"state"`
	TTLSeconds      int               `json:"ttlSeconds"`
	OnExpiry        domain.OnExpiry   `json:"onExpiry"`
	ExpiredFrom     domain.State      `json:"expiredFrom"`
	Slot            int               `json:"slot"`
	CreatedRevision domain.Revision   `json:"createdRevision"`
	Revision        domain.Revision   `json:"revision"`
}

func (b *backupReader) node(nodes *domain.Replacement) error {
	text, err := b.next()
	if err != nil {
		return err
	}
	if bytes.HasPrefix(text, []byte(`{"sha256":`)) {
		return b.damaged("the backup ends here, before all of the nodes that its first line announces")
	}
	b.sum.Write(text)
	body := storedBody{OnExpiry: domain.RemoveOnExpiry}
	if err := decodeJSON(text, &body); err != nil {
		return b.damaged("%v", err)
	}
	n := domain.CacheNode(body)
	if len(n.Labels) == 0 {
		n.Labels = nil
	}
	if err := domain.CheckStored(&n); err != nil {
		return b.damaged("node %q: %v", n.ID, err)
	}
	if err := nodes.Add(&n); err != nil {
		return b.damaged("node %q: %v", n.ID, err)
	}
	return nil
}

func (b *backupReader) trailer() error {
	text, err := b.next()
	if err != nil {
		return err
	}
	want := line(marshal(backupTrailer{SHA256: hex.EncodeToString(b.sum.Sum(nil))}))
	if !bytes.Equal(text, want) {
		return b.damaged("the checksum of what is before it is %s: something was changed or is damaged", bytes.TrimSpace(want))
	}
	b.line++
	switch _, err := b.lines.ReadByte(); {
	case err == nil:
		return b.damaged("the backup goes on behind its end")
	case !errors.Is(err, io.EOF):
		return b.damaged("the body ended early: %v", err)
	}
	return nil
}
