package offline_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// bereaved starts a cluster of three, stops all, and returns the directory, the raft
// address and the registry of a follower.
func bereaved(t *testing.T, backend string) (dir, address string, has registry) {
	t.Helper()
	base := t.TempDir()
	leader := start(t, filepath.Join(base, "n1"), "n1", backend, "--bootstrap_raft_cluster")
	leader.await("/readyz")
	var others []*instance
	for _, id := range []string{"n2", "n3"} {
		other := start(t, filepath.Join(base, id), id, backend, "--join="+leader.application())
		other.await("/readyz")
		others = append(others, other)
	}
	leader.put(1, 60)
	has = leader.registry()
	others[0].await("/nodes?consistency=stale&min_revision=" + has.revision)
	// The followers stop first, so that none of them is elected.
	others[0].stop()
	others[1].stop()
	leader.stop()
	return filepath.Join(base, "n2"), others[0].raftAddress(), has
}

func TestRecover(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			dir, address, has := bereaved(t, backend)
			before := mustRun(t, "storage", "check", "--raft_dir="+dir)
			for _, member := range []string{"n1=", "n2=" + address, "n3="} {
				if !strings.Contains(before, member) {
					t.Errorf("the membership before does not have %s:\n%s", member, before)
				}
			}
			self := "--instance=n2=" + address
			said := mustRun(t, "recover", "--raft_dir="+dir, self)
			for _, words := range []string{"reaches          entry ", "From now on the cluster is", "n2=" + address + " voter", "is lost", "must be started again", "takes effect",
				"Done: revision 60, 60 nodes.", "--raft_advertised_address=" + address, "--storage_backend=" + backend} {
				if !strings.Contains(said, words) {
					t.Errorf("recover does not say %q:\n%s", words, said)
				}
			}
			tree := logstoretest.Tree(t, dir)
			if again := mustRun(t, "recover", "--raft_dir="+dir, self); !strings.Contains(again, "there is nothing to do") {
				t.Errorf("the second run does not say that there is nothing to do:\n%s", again)
			}
			if now := logstoretest.Tree(t, dir); now != tree {
				t.Errorf("the second run changed the directory: from\n%s\nto\n%s", tree, now)
			}
			after := mustRun(t, "storage", "check", "--raft_dir="+dir)
			if strings.Contains(after, "n1=") || strings.Contains(after, "n3=") || !strings.Contains(after, "n2="+address) {
				t.Errorf("the membership afterwards is not n2 alone:\n%s", after)
			}
			i := start(t, dir, "n2", backend, "--raft_bind_address="+address)
			i.await("/readyz")
			i.registry().mustBe(t, has)
			i.put(61, 61)
			fresh := start(t, t.TempDir(), "n4", backend, "--join="+i.application())
			fresh.await("/readyz")
			fresh.await("/nodes?consistency=stale&min_revision=61")
			i.put(62, 62) // commits only with both instances
			fresh.await("/nodes?consistency=stale&min_revision=62")
		})
	}
}

func TestRecoverRefuses(t *testing.T) {
	dir, address, _ := livedIn(t, "bolt")
	damaged := crashed(t, "bolt")
	flip(t, filepath.Join(damaged, "log.bolt"), lastOf("node-50.example"))
	blank := t.TempDir()
	start(t, blank, "n1", "bolt").stop()
	volatile := t.TempDir()
	start(t, volatile, "n1", "memory").stop()
	for name, test := range map[string]struct {
		dir, instance string
		says          []string
	}{
		"a directory of another instance":    {dir, "n2=10.0.0.2:8008", []string{`--instance: this is the directory of "n1", not of "n2"`, "nothing was changed"}},
		"a damaged directory":                {damaged, "n1=" + address, []string{"entry 53: checksum mismatch", "nothing was changed"}},
		"a directory that was never written": {blank, "n1=" + address, []string{"no raft state", "nothing was changed"}},
		"a directory of the memory backend":  {volatile, "n1=" + address, []string{"no raft state"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := logstoretest.Tree(t, test.dir)
			mustFail(t, 1, test.says, "recover", "--raft_dir="+test.dir, "--instance="+test.instance)
			if after := logstoretest.Tree(t, test.dir); after != before {
				t.Errorf("the directory was changed: from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestRecoverWithoutASnapshotThatIsNotNeeded(t *testing.T) {
	dir, address, _ := livedIn(t, "bolt")
	older := snapshotStates(t, dir)[0]
	flip(t, older, middle)
	status, said, stderr := program(t, "recover", "--raft_dir="+dir, "--instance=n1="+address)
	if status != 0 || !strings.Contains(said, "Done: revision 100") || !strings.Contains(stderr, "warning: "+older) {
		t.Errorf("status = %d, want 0 and a warning, stdout:\n%s\nstderr:\n%s", status, said, stderr)
	}
	i := start(t, dir, "n1", "bolt", "--raft_bind_address="+address)
	i.await("/readyz")
	if got := i.registry(); got.revision != "100" {
		t.Errorf("revision = %s, want 100", got.revision)
	}
}
