package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// beginTimeout bounds the proof of leadership before a backup is read, and the wait for
// expiries before it is restored. The rest takes as long as the size of the backup needs.
const beginTimeout = 5 * time.Second

// BackupConfig is what Backups need. All fields must be set.
type BackupConfig struct {
	Registry ports.Registry
	Restorer ports.Restorer
	Local    ports.Local
	Leases   *Leases
	Logger   *slog.Logger
}

// Backups implements ports.Backups.
type Backups struct {
	BackupConfig
	restoring chan struct{} // holds a token while a backup is restored
}

// NewBackups returns the use cases over backups.
func NewBackups(config BackupConfig) *Backups {
	return &Backups{BackupConfig: config, restoring: make(chan struct{}, 1)}
}

// Restore implements ports.Backups.
func (b *Backups) Restore(ctx context.Context, read func() (domain.Backup, error), expected *domain.Revision) (domain.Replaced, error) {
	// Check this before reading: a backup can be hundreds of megabytes, and a client that
	// is redirected to the leader has to send it again.
	if err := b.mustLead(ctx); err != nil {
		return domain.Replaced{}, err
	}
	select {
	case b.restoring <- struct{}{}:
	default:
		return domain.Replaced{}, ports.ErrRestoring
	}
	defer func() { <-b.restoring }()
	backup, err := read()
	if err != nil {
		return domain.Replaced{}, err
	}
	release, err := b.pin(ctx, backup.Nodes)
	if err != nil {
		return domain.Replaced{}, err
	}
	defer release(nil)
	replaced, err := b.Restorer.Replace(ctx, backup.Nodes, expected)
	if err != nil {
		return domain.Replaced{}, err
	}
	b.Leases.restart()
	b.log(backup, replaced)
	return replaced, nil
}

func (b *Backups) mustLead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	_, err := b.Registry.Read(ctx)
	return err
}

// pin keeps the nodes of the backup from expiring while it is restored, because that
// renews them as any other write does.
func (b *Backups) pin(ctx context.Context, nodes *domain.Replacement) (release func([]domain.Change), err error) {
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	var leased []string
	for _, n := range nodes.Nodes() {
		if n.Expires() {
			leased = append(leased, n.ID)
		}
	}
	return b.Leases.pin(ctx, leased)
}

func (b *Backups) log(backup domain.Backup, replaced domain.Replaced) {
	state, _ := b.Local.State()
	log := b.Logger.With("backup_revision", backup.Revision, "revision", replaced.Revision,
		"added", replaced.Added, "updated", replaced.Updated, "removed", replaced.Removed, "unchanged", replaced.Unchanged)
	if backup.ClusterID != state.ClusterID {
		log = log.With("backup_cluster_id", backup.ClusterID)
	}
	log.Info("a backup has taken the place of the registry")
}
