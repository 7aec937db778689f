package consensus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// cuttableNeighbours are neighbours on a network that can be cut.
type cuttableNeighbours struct {
	neighbours
	network *network
	self    atomic.Pointer[instance]
}

func (a *cuttableNeighbours) ReadIndex(ctx context.Context, raftAddress string) (ports.ReadIndex, error) {
	here := raft.ServerAddress(a.self.Load().raftAddress())
	if err := a.network.passes(here, raft.ServerAddress(raftAddress)); err != nil {
		return ports.ReadIndex{}, err
	}
	return a.neighbours.ReadIndex(ctx, raftAddress)
}

// Every instance is read all the time, while leaders change, and instances are cut off and
// come back. No read may have less than any instance had acknowledged before the read began.
func TestNoReadHereIsOlderThanAnAcknowledgedWrite(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	fabric := newNetwork()
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		peers := &cuttableNeighbours{network: fabric}
		config.peers = peers
		config.started = func(i *instance) { peers.self.Store(i) }
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
	})

	var (
		acknowledged atomic.Uint64 // the latest acknowledged revision
		answered     = make([]atomic.Int64, len(cluster))
		running      sync.WaitGroup
	)
	ctx, stop := context.WithCancel(t.Context())
	defer running.Wait()
	defer stop()
	for writer := range 3 {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				cmd := domain.Register{Node: node(t, fmt.Sprintf("writer%d", writer), fmt.Sprintf("h%d:%d", writer, 1+n%60000))}
				for _, i := range cluster {
					changes, err := i.Propose(ctx, cmd)
					if err != nil {
						continue
					}
					for revision := uint64(changes[0].Revision); ; {
						latest := acknowledged.Load()
						if latest >= revision || acknowledged.CompareAndSwap(latest, revision) {
							break
						}
					}
				}
			}
		})
	}
	for n, i := range cluster {
		for range 4 {
			running.Go(func() {
				for ctx.Err() == nil {
					least := domain.Revision(acknowledged.Load())
					short, cancel := context.WithTimeout(ctx, time.Second)
					view, err := i.ReadHere(short)
					cancel()
					switch {
					case err == nil && view.Revision() < least:
						t.Errorf("%s read revision %d, want at least %d, which was acknowledged", i.config.ID, view.Revision(), least)
						return
					case err == nil:
						answered[n].Add(1)
					case errors.Is(err, ports.ErrNotCaughtUp):
						// The instance learned how far it must get from a leader that was
						// then cut off, and the election took longer than a read may wait.
					case !errors.Is(err, ports.ErrNoLeader) && !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
						t.Errorf("ReadHere of %s = %v, want success, ErrNoLeader or the deadline", i.config.ID, err)
						return
					}
				}
			})
		}
	}
	// Each step waits until all instances, except for the one that is cut off, answer again.
	answer := func(what string, cut *instance) {
		var before [3]int64
		for n := range cluster {
			before[n] = answered[n].Load()
		}
		until(t, what, func() bool {
			for n, i := range cluster {
				if i != cut && answered[n].Load() < before[n]+5 {
					return t.Failed()
				}
			}
			return true
		})
	}
	for range 6 {
		answer("all instances answer reads", nil)
		leader := leaderOf(t, cluster)
		switch random.IntN(3) {
		case 0:
			if err := leader.HandOver(within(t), ""); err != nil && !errors.Is(err, ports.ErrNotLeader) && !errors.Is(err, ports.ErrNoSuccessor) {
				t.Errorf("HandOver = %v, want success, ErrNotLeader or ErrNoSuccessor", err)
			}
		case 1:
			fabric.cut(raft.ServerAddress(leader.raftAddress()))
			answer("all instances but the one cut off answer reads", leader)
			fabric.mend(raft.ServerAddress(leader.raftAddress()))
		case 2:
			lost := cluster[random.IntN(len(cluster))]
			fabric.cut(raft.ServerAddress(lost.raftAddress()))
			answer("all instances but the one cut off answer reads", lost)
			fabric.mend(raft.ServerAddress(lost.raftAddress()))
		}
	}
	answer("all instances answer reads at the end", nil)
	stop()
	running.Wait()
	mustBeAlike(t, cluster...)
}
