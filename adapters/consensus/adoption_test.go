package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Two clusters add the same blank instance at the same moment, and both have tried before it
// learns its cluster from the log. Exactly one of them gets it. The instance tells the other
// cluster nothing and does not disturb it, in particular not with a later term.
func TestABlankInstanceGoesToOneOfTwoClusters(t *testing.T) {
	for name, secret := range map[string]string{"with a secret": "s", "without a secret": ""} {
		t.Run(name, func(t *testing.T) {
			leaders := startTwoClusters(t, secret)
			for round := range 5 {
				mustJoinOneOf(t, leaders, fmt.Sprintf("blank-%d", round), secret)
			}
		})
	}
}

func startTwoClusters(t *testing.T, secret string) [2]*instance {
	t.Helper()
	var leaders [2]*instance
	for n := range leaders {
		id := fmt.Sprintf("cluster-%d", n)
		leaders[n] = start(t, instanceConfig{id: id, directory: t.TempDir(), bootstrap: true, secret: secret})
		leaders[n].eventually(t, "leading", leading)
		register(t, leaders[n], id)
	}
	return leaders
}

func mustJoinOneOf(t *testing.T, leaders [2]*instance, id, secret string) {
	t.Helper()
	var before [2]ports.LocalState
	for n, leader := range leaders {
		before[n], _ = leader.State()
	}
	var blocked atomic.Bool
	blocked.Store(true)
	free := make(chan struct{})
	learn := sync.OnceFunc(func() { close(free) })
	defer learn()
	blank := start(t, instanceConfig{id: id, directory: t.TempDir(), secret: secret, hooks: testHooks{
		fsm: func(m *machine) raft.FSM { return blockableFSM{m, &blocked, free} },
	}})
	for _, leader := range leaders {
		wanted := voter(blank)
		wanted.Suffrage = domain.Nonvoter
		mustAdd(t, leader, wanted)
	}
	reached := func(leader *instance) bool { return !leader.evidence.lastHeard(raft.ServerID(id)).IsZero() }
	until(t, "one leader reached the blank instance, and the other was refused a few times", func() bool {
		return reached(leaders[0]) && reached(leaders[1]) || blank.refused() >= 3
	})
	if reached(leaders[0]) && reached(leaders[1]) {
		t.Error("both leaders reached the blank instance, want one")
	}
	if blank.directory.ClusterID() == "" {
		t.Error("the blank instance does not know its cluster")
	}
	learn()
	blank.eventually(t, "out of quarantine", trusted)
	state, _ := blank.State()
	for n, leader := range leaders {
		now, _ := leader.State()
		if !now.Leading || now.Term != before[n].Term {
			t.Errorf("%s = term %d, leading %v, want term %d and leading", leader.config.ID, now.Term, now.Leading, before[n].Term)
		}
		change := register(t, leader, id)
		if before[n].ClusterID == state.ClusterID {
			blank.waitForRevision(t, change.Revision)
			want, _ := leader.State()
			got, _ := blank.State()
			mustHoldTheSame(t, got, want)
		}
	}
	blank.stop(t)
	for _, leader := range leaders {
		if err := leader.Remove(within(t), id); err != nil {
			t.Fatal(err)
		}
	}
}

// startBlank starts an instance that waits to be added. dialFrom sends it the preface of a
// leader of the given cluster, which has the instance as a nonvoter, and returns the
// connection.
func startBlank(t *testing.T, directory string) (blank *instance, dialFrom func(clusterID string) (net.Conn, error)) {
	t.Helper()
	blank = start(t, instanceConfig{id: "blank", directory: directory})
	return blank, func(clusterID string) (net.Conn, error) {
		p := newPreface("leader-of-"+clusterID, clusterID, "")
		p.Nonvoter = func(string) bool { return true }
		conn, err := demux.Dial(within(t), blank.raftAddress(), RaftLane)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		return conn, dialPreface(p, conn)
	}
}

func belongsTo(id string) func(ports.LocalState) bool {
	return func(s ports.LocalState) bool { return s.ClusterID == id }
}

func TestAnAdoptedInstanceStaysInItsCluster(t *testing.T) {
	blank, dialFrom := startBlank(t, t.TempDir())
	if _, err := dialFrom("c1"); err != nil {
		t.Fatal(err)
	}
	blank.eventually(t, "in the first cluster", belongsTo("c1"))
	if _, err := dialFrom("c2"); !errors.Is(err, preface.ErrOtherCluster) || !strings.Contains(err.Error(), `"blank" of cluster "c1"`) {
		t.Errorf("dial from a second cluster = %v, want ErrOtherCluster naming blank and c1", err)
	}
	if _, err := dialFrom("c1"); err != nil {
		t.Errorf("second dial from the first cluster = %v, want success", err)
	}
	if err := blank.adopt("c2"); !errors.Is(err, preface.ErrOtherCluster) {
		t.Errorf("adopt by a second cluster = %v, want ErrOtherCluster", err)
	}
	if id := blank.directory.ClusterID(); id != "c1" {
		t.Errorf("cluster id in the directory = %q, want c1", id)
	}
}

// The connection was accepted when neither side had named a cluster, so the peer may belong
// to another one.
func TestConnectionsFromBeforeAnInstanceKnewItsClusterEnd(t *testing.T) {
	for name, learn := range map[string]func(*instance) error{
		"a cluster adopts the instance": func(i *instance) error { return i.adopt("c1") },
		"the applied state names the cluster": func(i *instance) error {
			i.state.update(func(s *localState) { s.ClusterID = "c1" })
			i.refreshState()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			blank, dialFrom := startBlank(t, t.TempDir())
			conn, err := dialFrom("")
			if err != nil {
				t.Fatal(err)
			}
			// An answer to a pre-vote, though a refusal, shows that raft has the connection.
			if _, err := io.WriteString(conn, "\x04\x80"); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			if err := learn(blank); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is still open: %v", err)
			}
		})
	}
}

// The cluster that adopted the instance is gone before it has sent an entry.
func TestAnUnusedAdoptionIsForgottenAtTheNextStart(t *testing.T) {
	blank, dialFrom := startBlank(t, t.TempDir())
	if _, err := dialFrom("c1"); err != nil {
		t.Fatal(err)
	}
	blank.eventually(t, "in the first cluster", belongsTo("c1"))
	blank.stop(t)
	blank, dialFrom = startBlank(t, blank.config.Directory)
	if state, _ := blank.State(); state.ClusterID != "" || !inQuarantineNow(state) {
		t.Errorf("cluster = %q, quarantine = %q, want no cluster and quarantine", state.ClusterID, state.Quarantine)
	}
	if _, err := dialFrom("c2"); err != nil {
		t.Fatal(err)
	}
	blank.eventually(t, "in the second cluster", belongsTo("c2"))
	blank.stop(t)
	blank = start(t, instanceConfig{id: "blank", directory: blank.config.Directory, bootstrap: true})
	blank.eventually(t, "leading a cluster of its own", func(s ports.LocalState) bool {
		return s.Leading && s.ClusterID != "c1" && s.ClusterID != "c2"
	})
}

// The instance may have been a voter, and its cluster relies on its vote. So no cluster, its
// own included, gets it out of quarantine by adopting it.
func TestAnInstanceThatLostItsStateStaysInQuarantineAndInItsCluster(t *testing.T) {
	directory := t.TempDir()
	claimed, err := logstore.Claim(directory, logstore.Owner{RaftID: "blank", Backend: "bolt"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(claimed.SetClusterID("c1"), claimed.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		lost, dialFrom := startBlank(t, directory)
		if state, _ := lost.State(); state.ClusterID != "c1" || !inQuarantineNow(state) {
			t.Errorf("cluster id = %q, quarantine = %q, want c1 and a reason", state.ClusterID, state.Quarantine)
		}
		if _, err := dialFrom("c1"); err != nil {
			t.Fatal(err)
		}
		if err := lost.adopt("c1"); err != nil { // as if by a connection from before the instance knew its cluster
			t.Fatal(err)
		}
		want := quarantineMark{Format: quarantineFormat, Reason: reasonNoState}
		if mark, found, err := readMark(lost.directory); mark != want || !found || err != nil {
			t.Errorf("mark = %+v, %v, want %+v", mark, err, want)
		}
		lost.stop(t)
	}
}

func TestAUsedAdoptionIsKept(t *testing.T) {
	leader := startCluster(t, 1, nil)[0]
	blank := start(t, instanceConfig{id: "blank", directory: t.TempDir(), peers: noReadIndex{}})
	wanted := voter(blank)
	wanted.Suffrage = domain.Nonvoter
	mustAdd(t, leader, wanted)
	until(t, "the blank instance has raft state", func() bool { return blank.raft.LastIndex() > 0 })
	blank.stop(t)
	leader.stop(t)
	blank, dialFrom := startBlank(t, blank.config.Directory)
	if state, _ := blank.State(); state.ClusterID == "" || !inQuarantineNow(state) {
		t.Errorf("cluster = %q, quarantine = %q, want a cluster and quarantine", state.ClusterID, state.Quarantine)
	}
	if _, err := dialFrom("c2"); !errors.Is(err, preface.ErrOtherCluster) {
		t.Errorf("dial from another cluster = %v, want ErrOtherCluster", err)
	}
}

// noReadIndex answers no ReadIndex, so that an instance that asks it stays in quarantine.
type noReadIndex struct{ neighbours }

func (noReadIndex) ReadIndex(context.Context, string) (ports.ReadIndex, error) {
	return ports.ReadIndex{}, errors.New("no answer")
}

// The starting instance may be about to found a cluster, or to find that it belongs to one.
func TestAnInstanceThatStartsIsNotAdopted(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	t.Cleanup(func() { i.stop(t) })
	if err := i.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := i.adopt("c1"); !errors.Is(err, errNotJudged) || i.directory.ClusterID() != "" {
		t.Errorf("cluster = %q, error = %v, want none and %v", i.directory.ClusterID(), err, errNotJudged)
	}
	if err := i.demux.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := demux.Dial(within(t), i.raftAddress(), RaftLane)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := dialPreface(newPreface("leader", "c1", ""), conn); !errors.Is(err, preface.ErrStarting) {
		t.Errorf("answer = %v, want %v", err, preface.ErrStarting)
	}
	if err := i.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.eventually(t, "leading", leading)
}
