package httpapi

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/frames"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// A backup is lines of JSON, so that it can be read, searched and compared:
//
//	{"format":"nodesmetadata-backup","version":1,"clusterID":"…","revision":17,"nodes":2}
//	one line for each node, in ascending order of the ids
//	{"sha256":"…"}
//
// where the last line has the SHA-256 of all bytes before it. A node is as the API shows
// it, with expiredFrom if expiry made it down. Every line ends with LF. The same registry
// makes the same bytes. Every version that was ever written stays readable.
const (
	backupFormat  = "nodesmetadata-backup"
	backupVersion = 1
)

var backupType = []string{"application/vnd.nodesmetadata.backup"}

// backupHead is the first line.
type backupHead struct {
	Format    string          `json:"format"`
	Version   int             `json:"version"`
	ClusterID string          `json:"clusterID"`
	Revision  domain.Revision `json:"revision"`
	Nodes     int             `json:"nodes"`
}

// backupTrailer is the last line.
type backupTrailer struct {
	SHA256 string `json:"sha256"`
}

func (s *Server) getBackup(ctx context.Context, r request) (answer, error) {
	source, err := r.query.source()
	if err != nil {
		return answer{}, err
	}
	view, err := s.config.Nodes.View(ctx, ports.Read{Source: source})
	if err != nil {
		return answer{}, err
	}
	state, _ := s.config.Local.State()
	a := answer{etag: []string{etag(view.Revision())}}
	a.setRevision(view.Revision())
	if err := checkMatchOf(r, a.etag[0], view.Revision(), nil); err != nil {
		return answer{}, err
	}
	if notModified(r, a.etag[0]) {
		a.status = http.StatusNotModified
		return a, nil
	}
	a.contentType = backupType
	a.disposition = fmt.Sprintf(`attachment; filename="nodesmetadata-%d.backup"`, view.Revision())
	a.content = func(w io.Writer) error {
		if err := s.lists.encoding.acquire(r.Context()); err != nil {
			return err
		}
		defer s.lists.encoding.release()
		return writeBackup(releasingWriter{w, s.lists.encoding}, state.ClusterID, view)
	}
	return a, nil
}

// releasingWriter releases the permit to encode while it writes.
type releasingWriter struct {
	io.Writer
	encoding semaphore
}

// Write implements io.Writer.
func (r releasingWriter) Write(b []byte) (n int, err error) {
	err = r.encoding.releaseWhile(func() error {
		n, err = r.Writer.Write(b)
		return err
	})
	return n, err
}

func writeBackup(w io.Writer, clusterID string, view domain.View) error {
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), writeBufferSize)
	// A bufio.Writer keeps its first error, and Flush returns it.
	_, _ = out.Write(line(marshal(backupHead{
		Format: backupFormat, Version: backupVersion, ClusterID: clusterID, Revision: view.Revision(), Nodes: view.Len(),
	})))
	var room []byte
	for n := range view.Nodes() {
		room = line(appendStored(room[:0], n))
		if _, err := out.Write(room); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(line(marshal(backupTrailer{SHA256: hex.EncodeToString(sum.Sum(nil))})))
	return err
}

func line(b []byte) []byte { return append(b, '\n') }

// appendStored appends n with all that the registry stores of it.
func appendStored(b []byte, n *domain.CacheNode) []byte {
	b = appendNode(b, n)
	if n.ExpiredFrom == "" {
		return b
	}
	b = append(b[:len(b)-1], `,"expiredFrom":`...)
	b = appendString(b, string(n.ExpiredFrom))
	return append(b, '}')
}

// pieceWriter sets a deadline for each piece of a long answer, instead of one for all of it.
type pieceWriter struct {
	w              io.Writer
	control        *http.ResponseController
	stalledTimeout time.Duration
}

// Write implements io.Writer.
func (p pieceWriter) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		// If it fails, the answer keeps its usual deadline.
		_ = p.control.SetWriteDeadline(time.Now().Add(p.stalledTimeout))
		var n int
		n, err = p.w.Write(b[:min(len(b), frames.MaxPiece)])
		b, written = b[n:], written+n
	}
	return written, err
}
