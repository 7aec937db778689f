package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// Two clusters add the same blank instance at the same moment. One gets it; the
// other is told so, and is not left with a nonvoter that it could never reach.
func TestABlankInstanceJoinsOneOfTwoClusters(t *testing.T) {
	t.Parallel() // see calm
	anyBackend(t, func(t *testing.T, backend string) {
		for name, flags := range map[string][]string{
			"with a secret":    append([]string{"--raft_secret_file=" + secretFile(t, "a secret that both have")}, calm...),
			"without a secret": calm,
		} {
			for round := range 3 {
				c := harness.New(t, harness.Options{Size: 3, Backend: backend, Flags: flags})
				apart, blank := c.Instances[:2], c.Instances[2]
				blank.Launch()
				for _, i := range apart {
					i.Flags = append(i.Flags, "--bootstrap_raft_cluster")
					i.Launch()
				}
				blank.AwaitServing()
				for _, i := range apart {
					i.AwaitReady()
					put(t, i.Client, "of-"+i.ID)
				}
				mustJoinOne(t, fmt.Sprintf("%s, round %d", name, round), apart, blank)
				for _, i := range c.Instances {
					i.Stop()
				}
			}
		}
	})
}

func mustJoinOne(t *testing.T, when string, apart []*harness.Instance, blank *harness.Instance) {
	t.Helper()
	var before [2]harness.Metadata
	var faults [2]error
	for n, i := range apart {
		before[n] = metadata(t, i.Client)
	}
	var adding sync.WaitGroup
	for n, i := range apart {
		adding.Go(func() { faults[n] = i.RaftAdd(t.Context(), blank.Member()) })
	}
	adding.Wait()
	if (faults[0] == nil) == (faults[1] == nil) {
		t.Fatalf("%s: errors = %v and %v, want exactly one success", when, faults[0], faults[1])
	}
	for n, i := range apart {
		put(t, i.Client, "after")
		now := metadata(t, i.Client)
		if now.Term != before[n].Term || now.LeaderNodeID != i.ID || now.ClusterID != before[n].ClusterID {
			t.Errorf("%s: metadata of %s = %+v, want the term, leader and cluster of %+v", when, i.ID, now, before[n])
		}
		if faults[n] != nil {
			refusedInstance(t, when, faults[n], http.StatusConflict, "other_cluster")
			if len(now.NodesMetadata) != 1 {
				t.Errorf("%s: members of %s, which was refused, = %+v, want only itself", when, i.ID, now.NodesMetadata)
			}
			continue
		}
		awaitSuffrage(t, i.Client, blank.ID, "voter", true)
		want := list(t, i.Client)
		harness.Eventually(t, when+": the new voter has the state of its cluster", func() error {
			ready, err := blank.Ready(t.Context())
			if err == nil && (!ready.Ready || ready.ClusterID != now.ClusterID || ready.Revision != want.Revision) {
				err = errors.New(fmt.Sprint(ready))
			}
			return err
		})
		if got := list(t, blank.Client.With("consistency=stale")); got.Nodes["of-"+i.ID].ID == "" || len(got.Nodes) != len(want.Nodes) {
			t.Errorf("%s: nodes of the new voter = %v, want those of its cluster, %v", when, got.Nodes, want.Nodes)
		}
	}
}
