package app_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func newBackups(i *portstest.Instance, leases *app.Leases, log *bytes.Buffer) *app.Backups {
	return app.NewBackups(app.BackupConfig{
		Registry: i, Restorer: i, Local: i, Leases: leases, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
}

// backup gives one of another cluster, with the nodes that spec names.
func backup(t *testing.T, specs ...domain.NodeSpec) domain.Backup {
	t.Helper()
	with := domain.NewReplacement()
	for slot, spec := range specs {
		n, err := domain.NewCacheNode(spec)
		if err != nil {
			t.Fatal(err)
		}
		n.Slot = slot
		if err := with.Add(&n); err != nil {
			t.Fatal(err)
		}
	}
	return domain.Backup{ClusterID: "elsewhere", Revision: 17, Nodes: with}
}

func reading(b domain.Backup) func() (domain.Backup, error) {
	return func() (domain.Backup, error) { return b, nil }
}

func TestARestoreReplacesTheRegistry(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	write(t, i, 3)
	var log bytes.Buffer
	backups := newBackups(i, newLeases(i), &log)
	replaced, err := backups.Restore(t.Context(), reading(backup(t, spec("b", 1), spec("c", 1))), nil)
	if want := (domain.Replaced{Revision: 6, Added: 2, Removed: 1}); err != nil || replaced != want {
		t.Errorf("Restore = %+v, %v, want %+v", replaced, err, want)
	}
	if text := log.String(); !strings.Contains(text, "backup_cluster_id=elsewhere") || !strings.Contains(text, "backup_revision=17") {
		t.Errorf("log = %s, want the cluster and the revision of the backup", text)
	}
	own := backup(t, spec("b", 1))
	own.ClusterID = "cluster-of-n1"
	log.Reset()
	if _, err := backups.Restore(t.Context(), reading(own), nil); err != nil || strings.Contains(log.String(), "backup_cluster_id") {
		t.Errorf("restore of an own backup: error = %v, log = %s, want no mention of another cluster", err, log.String())
	}
}

func TestABackupIsReadOnlyIfItCanBeRestored(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	write(t, i, 3)
	var log bytes.Buffer
	backups := newBackups(i, newLeases(i), &log)
	broken := errors.New("broken")
	expected := domain.Revision(2)
	never := func() (domain.Backup, error) {
		t.Error("the backup was read, although it could not be restored")
		return domain.Backup{}, broken
	}
	reads := func() (domain.Backup, error) {
		if _, err := backups.Restore(t.Context(), never, nil); !errors.Is(err, ports.ErrRestoring) {
			t.Errorf("second restore while the first is read: error = %v, want %v", err, ports.ErrRestoring)
		}
		return domain.Backup{}, broken
	}
	tests := map[string]struct {
		fail     error
		read     func() (domain.Backup, error)
		expected *domain.Revision
		err      error
	}{
		"at a follower":               {fail: ports.ErrNotLeader, read: never, err: ports.ErrNotLeader},
		"a backup that can't be read": {read: reads, err: broken},
		"at another revision":         {read: reading(backup(t, spec("b", 1))), expected: &expected, err: domain.ErrConditionFailed},
		"a restore that is refused":   {read: func() (domain.Backup, error) { i.FailWith(ports.ErrBusy); return backup(t), nil }, err: ports.ErrBusy},
		"a leader that is cut off":    {fail: context.DeadlineExceeded, read: never, err: context.DeadlineExceeded},
		"an unknown outcome":          {read: func() (domain.Backup, error) { i.FailWith(ports.ErrOutcomeUnknown); return backup(t), nil }, err: ports.ErrOutcomeUnknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i.FailWith(test.fail)
			defer i.FailWith(nil)
			if _, err := backups.Restore(t.Context(), test.read, test.expected); !errors.Is(err, test.err) {
				t.Errorf("error = %v, want %v", err, test.err)
			}
			if state, _ := i.State(); state.View.Revision() != 3 {
				t.Errorf("revision after a failed restore = %d, want 3", state.View.Revision())
			}
		})
	}
	if log.Len() > 0 {
		t.Errorf("log after failed restores = %s, want none", log.String())
	}
}

// A node that was the same before has its full time to live again, too.
func TestARestoreRenewsEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		leases := newLeases(i)
		if err := leases.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = leases.Close(context.Background()) }()
		leased := spec("a", 1)
		leased.TTLSeconds = new(10)
		if _, err := app.NewNodes(i, i, leases).Register(t.Context(), leased, domain.Condition{}); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		<-time.After(9 * time.Second)
		replaced, err := newBackups(i, leases, &log).Restore(t.Context(), reading(backup(t, leased)), nil)
		if want := (domain.Replaced{Revision: 1, Unchanged: 1}); err != nil || replaced != want {
			t.Fatalf("Restore = %+v, %v, want %+v", replaced, err, want)
		}
		there := func() bool {
			state, _ := i.State()
			_, found := state.View.Node("a")
			return found
		}
		<-time.After(9 * time.Second)
		if !there() {
			t.Error("the node expired as if the restore had not renewed it")
		}
		<-time.After(2 * time.Second)
		if there() {
			t.Error("the node has not expired a full time to live after the restore")
		}
	})
}
