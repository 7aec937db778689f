package consensus

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestAClusterReplicatesAndSurvivesItsLeader(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	first := cluster[0]
	register(t, first, "a")
	for _, follower := range cluster[1:] {
		if _, err := follower.Read(within(t)); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("Read of a follower = %v, want ErrNotLeader", err)
		}
		if _, err := follower.Propose(within(t), domain.Deregister{ID: "a"}); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("Propose of a follower = %v, want ErrNotLeader", err)
		}
	}
	first.stop(t)
	second := leaderOf(t, cluster[1:])
	view, err := second.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, there := view.Node("a"); !there || view.Revision() != 1 {
		t.Fatalf("view of the new leader = revision %d, want revision 1 with the acknowledged node", view.Revision())
	}
	if change := register(t, second, "b"); change.Revision != 2 {
		t.Errorf("revision after a failover = %d, want 2", change.Revision)
	}
}

func TestAnInstanceRestartsWithAllItsState(t *testing.T) {
	directory := t.TempDir()
	config := instanceConfig{id: "a", directory: directory, bootstrap: true}
	i := start(t, config)
	i.eventually(t, "leading", leading)
	register(t, i, "x")
	before, _ := i.State()
	i.stop(t)

	again := start(t, config)
	again.eventually(t, "leading", leading)
	view, err := again.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, there := view.Node("x"); !there {
		t.Error("a restart lost an acknowledged node")
	}
	if after, _ := again.State(); after.ClusterID != before.ClusterID || before.ClusterID == "" {
		t.Errorf("cluster id after the restart = %q, want %q", after.ClusterID, before.ClusterID)
	}
}

func TestALoneVoterWaitsForNobody(t *testing.T) {
	config := instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true, timing: func(timing *Timing) {
		timing.HeartbeatTimeout, timing.ElectionTimeout = 2*patience, 2*patience
	}}
	i := start(t, config)
	i.eventually(t, "leading", leading)
	i.stop(t)
	start(t, config).eventually(t, "leading again", leading)
}

func TestABatchIsOneEntry(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	i.eventually(t, "leading", leading)
	before := i.raft.LastIndex()
	batch := domain.Batch{}
	for n := range domain.MaxBatch {
		batch.Commands = append(batch.Commands, domain.Register{Node: node(t, fmt.Sprintf("n%d", n), fmt.Sprintf("n%d:1", n))})
	}
	changes, err := i.Propose(within(t), batch)
	if err != nil || len(changes) != domain.MaxBatch {
		t.Fatalf("changes of the batch = %d, %v, want MaxBatch", len(changes), err)
	}
	if n := i.raft.LastIndex() - before; n != 1 {
		t.Errorf("entries of the batch = %d, want 1", n)
	}
}
