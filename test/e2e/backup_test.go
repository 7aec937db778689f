package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func backupOf(t *testing.T, through *harness.Client) harness.Backup {
	t.Helper()
	backup, err := through.Backup(t.Context())
	if err != nil {
		t.Fatalf("backup through %s: %v", through.Address(), err)
	}
	return backup
}

// mustBeBackup fails the test unless the nodes equal those of the backup, except
// for their revisions.
func mustBeBackup(t *testing.T, what string, got harness.Registry, backup harness.Backup) {
	t.Helper()
	plain := func(registry harness.Registry) harness.Registry {
		nodes := make(map[string]harness.Node, len(registry.Nodes))
		for id, node := range registry.Nodes {
			node.CreatedRevision, node.Revision = 0, 0
			nodes[id] = node
		}
		return harness.Registry{Nodes: nodes}
	}
	sameRegistry(t, what, plain(got), plain(backup.Registry))
}

// mustBeAlike fails the test unless all instances hold byte for byte the same state.
func mustBeAlike(t *testing.T, c *harness.Cluster) harness.Registry {
	t.Helper()
	c.AwaitReady()
	leader := c.Leader().Client
	registry := list(t, leader)
	want := map[string][]byte{}
	for _, path := range []string{"/nodes", "/raft/backup"} {
		want[path] = bodyOf(t, leader, path)
	}
	for _, i := range c.Instances {
		awaitRevision(t, i, registry.Revision)
		own := i.With("consistency=stale")
		for path, body := range want {
			if !bytes.Equal(bodyOf(t, own, path), body) {
				sameRegistry(t, i.ID, list(t, own), registry)
				t.Errorf("%s of %s differs from that of the leader", path, i.ID)
			}
		}
	}
	return registry
}

func bodyOf(t *testing.T, through *harness.Client, path string) []byte {
	t.Helper()
	answer, err := through.Do(t.Context(), http.MethodGet, path, nil)
	if err != nil {
		t.Fatalf("%s through %s: %v", path, through.Address(), err)
	}
	return answer.Body
}

// A backup taken under load is the registry at exactly one revision.
func TestABackupUnderLoadIsConsistent(t *testing.T) {
	c := startCalm(t, "bolt")
	follower := harness.Follow(t, c.Clients()...)
	follower.Await(t, 0)
	harness.Eventually(t, "the stream has begun", func() error {
		if _, snapshots := follower.Counts(); snapshots == 0 {
			return errors.New("it has received no snapshot yet")
		}
		return nil
	})
	w := startRandomLoad(t, c)
	var backups []harness.Backup
	for n := range 15 {
		w.awaitMore(t, 20)
		through := c.Instances[n%len(c.Instances)].Client
		if n%2 == 1 {
			through = through.With("redirect=false")
		}
		backups = append(backups, backupOf(t, through))
	}
	w.stop()
	follower.Await(t, list(t, c.Leader().Client).Revision)
	follower.Stop()
	if first := follower.First(); first.Revision != 0 {
		t.Fatalf("first revision of the stream = %d, want 0", first.Revision)
	}
	changes := follower.Changes()
	last := uint64(0)
	for n, backup := range backups {
		if backup.Revision < last {
			t.Errorf("revision of backup %d = %d, want at least %d, that of the backup before it", n, backup.Revision, last)
		}
		last = backup.Revision
		sameRegistry(t, fmt.Sprintf("backup %d", n), backup.Registry, replay(changes[:backup.Revision]))
	}
	if last == 0 {
		t.Error("the last backup is of revision 0: the load changed nothing")
	}
}

// The script in the manual makes a backup even if the instance that it asks first
// is paused and never answers.
func TestTheScriptOfTheManualMakesBackups(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(manual), "```sh\n#!/bin/sh")
	script, _, found := strings.Cut(script, "```")
	if !found {
		t.Fatal("docs/operations.md contains no script")
	}
	c := startCalm(t, "wal")
	first, others := c.Leader(), c.Followers()
	put(t, first.Client, "a")
	want := backupOf(t, first.Client).File
	first.Pause()
	defer first.Resume()
	directory := t.TempDir()
	script = strings.NewReplacer("/var/backups/nodesmetadata", directory, "--speed-time 10", "--speed-time 2",
		"10.0.0.1:8080", first.Address(), "10.0.0.2:8080", others[0].Address(), "10.0.0.3:8080", others[1].Address()).Replace(script)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "sh", "-c", script)
	command.WaitDelay = time.Second // curl may outlive its shell
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("backup script: %v: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(directory, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files left by the script = %q, %v, want one backup", files, err)
	}
	if got, err := os.ReadFile(files[0]); err != nil || string(got) != string(want) {
		t.Errorf("%s is not the backup: %v\n%s", files[0], err, got)
	}
}

func TestARestoreBringsTheBackupBack(t *testing.T) {
	c := startCalm(t, "bolt")
	w := startRandomLoad(t, c)
	w.awaitMore(t, 100)
	backup := backupOf(t, c.Leader().Client)
	w.awaitMore(t, 100)
	w.stop()
	endLeases(t, c)
	before := list(t, c.Leader().Client)
	follower := harness.Follow(t, c.Clients()...)
	follower.Await(t, before.Revision)

	restored, err := c.Followers()[0].Restore(t.Context(), backup.File) // the follower forwards it to the leader
	if err != nil {
		t.Fatal(err)
	}
	changed := restored.Added + restored.Updated + restored.Removed
	if restored.Revision != before.Revision+uint64(changed) || restored.Added+restored.Updated+restored.Unchanged != len(backup.Nodes) ||
		restored.Backup.Revision != backup.Revision || restored.Backup.ClusterID != backup.ClusterID || changed == 0 {
		t.Errorf("result of the restore at revision %d of a backup with %d nodes does not add up: %+v", before.Revision, len(backup.Nodes), restored)
	}
	follower.Await(t, restored.Revision)
	follower.Stop()
	told := follower.Changes()[:changed]
	for _, change := range told {
		if change.Reason != "restore" {
			t.Fatalf(`reason of a change by the restore = %q, want "restore"`, change.Reason)
		}
	}
	now := before
	for _, change := range told {
		if change.Type == "removed" {
			delete(now.Nodes, change.Node.ID)
		} else {
			now.Nodes[change.Node.ID] = change.Node
		}
	}
	mustBeBackup(t, "the registry according to the stream", now, backup)

	t.Run("in another cluster", func(t *testing.T) {
		other := harness.Start(t, harness.Options{Size: 1, Backend: "badger", Flags: calm})
		put(t, other.Instances[0].Client, "stranger")
		restored, err := other.Instances[0].Restore(t.Context(), backup.File, harness.IfRevision(1))
		if err != nil {
			t.Fatal(err)
		}
		if restored.Added != len(backup.Nodes) || restored.Removed != 1 || restored.Backup.ClusterID != backup.ClusterID {
			t.Errorf("result of the restore = %+v, want %d nodes added and 1 removed", restored, len(backup.Nodes))
		}
		mustBeBackup(t, "the other cluster", list(t, other.Instances[0].Client), backup)
		if log := other.Instances[0].Log(); !strings.Contains(log, "backup_cluster_id="+backup.ClusterID) {
			t.Error("the log does not contain the id of the cluster that the backup is from")
		}
	})
	endLeases(t, c)
	mustBeAlike(t, c)
}

// bigBackup returns a backup with so many nodes that its restore takes many log entries.
func bigBackup(t *testing.T, nodes int) harness.Backup {
	t.Helper()
	c := harness.Start(t, harness.Options{Size: 1, Flags: calm, Build: harness.Build{Plain: true}})
	through := c.Instances[0]
	for n := 0; n < nodes; {
		var changes []harness.BatchChange
		for range 1000 {
			node := harness.NewNode(fmt.Sprintf("node-%06d", n))
			node.Zone = strings.Repeat("z", 100)
			changes = append(changes, harness.Puts(node)...)
			n++
		}
		if _, err := through.Batch(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
	}
	return backupOf(t, through.Client)
}

func TestARestoreOfAKilledLeaderIsAllOrNothing(t *testing.T) {
	backup := bigBackup(t, 20_000)
	anyBackend(t, func(t *testing.T, backend string) {
		// With frequent snapshots, some contain a half-finished restore. The race
		// detector would make them so slow that the client times out.
		c := harness.Start(t, harness.Options{Backend: backend, Build: harness.Build{Plain: true}, Flags: []string{
			"--raft_snapshot_threshold=5", "--raft_snapshot_interval=50ms", "--raft_trailing_logs=2",
		}})
		put(t, c.Leader().Client, "before")
		outcomes := map[string]int{}
		const rounds = 4
		for round := range rounds {
			before := list(t, c.Leader().Client)
			leader := c.Leader()
			watched := c.Followers()[0]
			from := lastIndex(t, watched)
			result := make(chan error, 1)
			go func() {
				_, err := leader.NotFollowing().Restore(t.Context(), backup.File, harness.IfRevision(before.Revision))
				result <- err
			}()
			harness.Eventually(t, "a follower has received some entries of the restore", func() error {
				ready, err := watched.Ready(t.Context())
				switch now := lastIndex(t, watched); {
				case err != nil:
					return err
				case now < from+float64(1+4*round):
					return fmt.Errorf("the log ends at %v, but ended at %v before", now, from)
				case round == rounds-1 && ready.Revision == before.Revision:
					return errors.New("the restore is not applied yet")
				}
				return nil
			})
			leader.Kill()
			err := <-result
			leader.Start()
			after := mustBeAlike(t, c)
			switch {
			case after.Revision == before.Revision:
				sameRegistry(t, "the registry after a restore without effect", after, before)
				outcomes["nothing"]++
				if err == nil {
					t.Error("the restore was acknowledged and had no effect")
				}
			default:
				mustBeBackup(t, "the registry after a complete restore", after, backup)
				outcomes["all"]++
				// The next round must have something to restore.
				put(t, c.Leader().Client, fmt.Sprintf("more-%d", round))
			}
		}
		t.Logf("number of restores by what of them took effect: %v", outcomes)
		if outcomes["nothing"] == 0 || outcomes["all"] == 0 {
			t.Errorf("outcomes = %v, want both at least once", outcomes)
		}
		harness.Eventually(t, "a restore that nobody cuts off", func() error {
			_, err := c.Leader().Restore(t.Context(), backup.File)
			return err
		})
		mustBeBackup(t, "the registry in the end", mustBeAlike(t, c), backup)
	})
}

func lastIndex(t *testing.T, i *harness.Instance) float64 {
	t.Helper()
	metrics, err := i.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return metrics["nodesmetadata_raft_last_index"]
}

func TestADamagedBackupChangesNothing(t *testing.T) {
	t.Parallel() // see calm
	c := startCalm(t, "bolt")
	put(t, c.Leader().Client, "a")
	backup := backupOf(t, c.Leader().Client)
	put(t, c.Leader().Client, "b")
	for at := range backup.File {
		damaged := append([]byte(nil), backup.File...)
		damaged[at] ^= 0x01
		for what, file := range map[string][]byte{"flipped": damaged, "cut off": backup.File[:at]} {
			_, err := c.Leader().Restore(t.Context(), file)
			problem := new(harness.Problem)
			if !errors.As(err, &problem) || problem.Answer.Status != 400 || problem.Code != "damaged_backup" {
				t.Fatalf("backup %s at byte %d: error = %v, want 400 damaged_backup", what, at, err)
			}
		}
	}
	if registry := mustBeAlike(t, c); registry.Revision != 2 {
		t.Errorf("revision after refused restores = %d, want 2", registry.Revision)
	}
	for _, i := range c.Instances {
		if now := lastIndex(t, i); now != lastIndex(t, c.Leader()) {
			t.Errorf("last index of %s = %v, want that of the leader", i.ID, now)
		}
	}
}
