package httpapi

import (
	"context"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A backup may be as long as a registry, so there is no time limit for all of it. But
// uploadPiece must arrive within uploadTimeout: while one backup arrives, no other is
// accepted.
const (
	uploadPiece   = 256 << 10
	uploadTimeout = longestTimeout
)

// upload is a body with a deadline for each piece, instead of one for all of it.
type upload struct {
	*conns.Body
	left int // of the current piece
}

// Read implements io.Reader.
func (u *upload) Read(b []byte) (int, error) {
	if u.left == 0 {
		u.left = uploadPiece
		u.LimitUntil(time.Now().Add(uploadTimeout))
	}
	n, err := u.Body.Read(b[:min(len(b), u.left)])
	u.left -= n
	return n, err
}

type restoredBody struct {
	Revision  domain.Revision `json:"revision"`
	Added     int             `json:"added"`
	Updated   int             `json:"updated"`
	Removed   int             `json:"removed"`
	Unchanged int             `json:"unchanged"`
	// Backup is what was restored.
	Backup originBody `json:"backup"`
}

type originBody struct {
	ClusterID string          `json:"clusterID"`
	Revision  domain.Revision `json:"revision"`
}

func (s *Server) restore(ctx context.Context, r request) (answer, error) {
	expected, err := registryCondition(r)
	if err != nil {
		return answer{}, err
	}
	if err := checkBackupType(r.Header); err != nil {
		return answer{}, err
	}
	var backup domain.Backup
	read := func() (domain.Backup, error) {
		var err error
		backup, err = readBackup(r.Body)
		return backup, err
	}
	replaced, err := s.config.Backups.Restore(ctx, read, expected)
	if err != nil {
		return answer{}, err
	}
	a := answer{etag: []string{etag(replaced.Revision)}, body: marshal(restoredBody{
		Revision: replaced.Revision,
		Added:    replaced.Added, Updated: replaced.Updated, Removed: replaced.Removed, Unchanged: replaced.Unchanged,
		Backup: originBody{ClusterID: backup.ClusterID, Revision: backup.Revision},
	})}
	a.setRevision(replaced.Revision)
	return a, nil
}

// registryCondition returns the revision that If-Match expects of the registry; nil for any.
func registryCondition(r request) (*domain.Revision, error) {
	if _, given := r.Header["If-None-Match"]; given {
		return nil, invalidRequest("If-None-Match is not supported here")
	}
	match, given := r.Header["If-Match"]
	if !given {
		return nil, nil
	}
	if len(match) == 1 {
		if revision, ok := parseEtag(strings.TrimSpace(match[0])); ok {
			return &revision, nil
		}
	}
	return nil, invalidRequest("If-Match must be one revision of the registry in quotes: %q", match)
}

// checkBackupType accepts the media types that clients send for a file or for lines of JSON,
// and refuses those that an HTML form can send.
func checkBackupType(h http.Header) error {
	declared, err := declaredType(h)
	if err != nil || declared == "" {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(declared)
	if err != nil || !slices.Contains([]string{backupType[0], "application/octet-stream", "application/json"}, mediaType) {
		return refuse(errMediaType, "the body must be %s, application/octet-stream or application/json, not %q (curl declares nothing with -T)",
			backupType[0], declared)
	}
	return nil
}
