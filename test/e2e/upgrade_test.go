package e2e_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// firstFormat is the last commit whose program does not report the format of the
// log that it reads.
const firstFormat = "dec631d08d2b28d8d892e83fd53fb776013b2fc2"

// restoreFormat is the format that introduced restores.
const restoreFormat = 2

// A cluster is upgraded from one build to the next one instance at a time, and its
// users notice nothing.
func TestARollingUpgradeLosesNothing(t *testing.T) {
	tests := map[string]struct {
		backend string
		from    func(testing.TB) string
		newLead bool // the instance upgraded first leads the others
	}{
		"from the previous commit, the leader last":          {backend: "bolt", from: harness.Previous},
		"from the first format, led by an upgraded instance": {backend: "badger", from: func(testing.TB) string { return firstFormat }, newLead: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, after := harness.ProgramAt(t, test.from(t)), harness.Program(t, harness.Build{})
			c := harness.New(t, harness.Options{Backend: test.backend, Flags: slices.Concat(calm, snapshotsOften)})
			for _, i := range c.Instances {
				i.Use(before)
			}
			c.Bootstrap()
			u := startUpgrade(t, c)
			leader := c.Leader()
			for n, i := range append(others(c, leader), leader) {
				i.Stop()
				i.Use(after)
				i.Start()
				i.AwaitReady()
				if n == 0 && test.newLead {
					if _, err := c.Leader().RaftHandOver(t.Context(), i.ID); err != nil {
						t.Fatal(err)
					}
				}
				u.upgraded++
				u.check(t)
			}
			u.end(t)
		})
	}
}

// upgrade is the load on a cluster during its upgrade.
type upgrade struct {
	cluster  *harness.Cluster
	load     *load
	streams  []*harness.Follower
	format   float64 // that the old build reads
	upgraded int
}

func startUpgrade(t *testing.T, c *harness.Cluster) *upgrade {
	t.Helper()
	u := &upgrade{cluster: c, format: 1}
	if told, known := metric(t, c.Instances[0], "nodesmetadata_log_format"); known {
		u.format = told
	}
	u.streams = append(u.streams, harness.Follow(t, c.Clients()...))
	for _, i := range c.Instances {
		u.streams = append(u.streams, harness.Follow(t, i.With("redirect=false")))
	}
	// The streams' snapshots contain what was written before, so they deliver no changes for it.
	harness.Eventually(t, "all streams have begun", func() error {
		for n, stream := range u.streams {
			if _, snapshots := stream.Counts(); snapshots == 0 {
				return fmt.Errorf("stream %d has received no snapshot yet", n)
			}
		}
		return nil
	})
	u.load = startLoad(t, 5, c.Clients()) // enough writers for some writes to share an entry
	u.load.awaitMore(t, 30)
	return u
}

func metric(t *testing.T, i *harness.Instance, name string) (value float64, known bool) {
	t.Helper()
	metrics, err := i.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	value, known = metrics[name]
	return value, known
}

// check uses, through every instance, the features that both builds have.
func (u *upgrade) check(t *testing.T) {
	t.Helper()
	u.load.awaitMore(t, 30)
	for _, i := range u.cluster.Instances {
		node := harness.NewNode(fmt.Sprintf("upgraded-%d-%s", u.upgraded, i.ID))
		weight := 1 // the load counts by weight
		node.Weight, node.TTLSeconds = &weight, 600
		harness.Eventually(t, "a batch, a renewal and a read through "+i.ID, func() error {
			if _, err := i.Batch(t.Context(), harness.Puts(node)); err != nil {
				return err
			}
			if _, err := i.Heartbeat(t.Context(), node.ID); err != nil {
				return err
			}
			_, err := i.With("redirect=false").Get(t.Context(), node.ID)
			return err
		})
	}
	checkMembers(t, u.cluster)
	u.checkRestore(t)
	for _, i := range u.cluster.Instances {
		own, known := metric(t, i, "nodesmetadata_log_format")
		if !known {
			continue // this build does not report it yet
		}
		want := own
		if u.upgraded < len(u.cluster.Instances) {
			want = min(own, u.format)
		}
		harness.Eventually(t, fmt.Sprintf("%s knows that all instances read format %v", i.ID, want), func() error {
			if shared, _ := metric(t, i, "nodesmetadata_log_format_shared"); shared != want {
				return fmt.Errorf("shared format = %v, want %v", shared, want)
			}
			return nil
		})
	}
}

// checkRestore restores a backup under a condition that does not hold. Once all
// instances understand restores, the condition refuses it; before that, the leader
// does.
func (u *upgrade) checkRestore(t *testing.T) {
	t.Helper()
	leader := u.cluster.Leader()
	if format, _ := metric(t, leader, "nodesmetadata_log_format"); format < restoreFormat {
		return // this build has no restore
	}
	harness.Eventually(t, "a restore is understood by all instances, or refused", func() error {
		backup, err := leader.Do(t.Context(), "GET", "/raft/backup", nil)
		if err != nil {
			return err
		}
		_, err = leader.Restore(t.Context(), backup.Body, harness.Header{Name: "If-Match", Value: `"0"`})
		want := "precondition_failed"
		if u.format < restoreFormat && u.upgraded < len(u.cluster.Instances) {
			want = "upgrade_in_progress"
		}
		if problem := problemIn(err); problem != nil && problem.Code == want {
			return nil
		}
		return fmt.Errorf("with %d instances upgraded: error = %w, want %s", u.upgraded, err, want)
	})
}

// checkShared fails the test unless writes share log entries now that all instances
// can read such entries.
func (u *upgrade) checkShared(t *testing.T) {
	t.Helper()
	const writes = 300
	leader := u.cluster.Leader()
	before, _ := metric(t, leader, "nodesmetadata_applied_entries_total")
	u.load.awaitMore(t, writes)
	after, _ := metric(t, leader, "nodesmetadata_applied_entries_total")
	if entries := after - before; entries >= writes || entries <= 0 {
		t.Errorf("%d writes took %v log entries, want fewer entries than writes", writes, entries)
	}
}

// end fails the test unless the load, the streams and the history agree.
func (u *upgrade) end(t *testing.T) {
	t.Helper()
	u.checkShared(t)
	u.load.end()
	registry := list(t, u.cluster.Leader().Client)
	for _, i := range u.cluster.Instances {
		awaitRevision(t, i, registry.Revision)
		sameRegistry(t, "the registry of "+i.ID, list(t, i.With("consistency=stale")), registry)
	}
	for n, stream := range u.streams {
		stream.Await(t, registry.Revision)
		stream.Stop()
		sameRegistry(t, fmt.Sprintf("the copy of stream %d", n), stream.Registry(), registry)
		if streams, snapshots := stream.Counts(); streams < 2 || snapshots != 1 {
			t.Errorf("stream %d was opened %d times and took %d snapshots, want at least 2 and exactly 1", n, streams, snapshots)
		}
	}
	u.load.check(t, u.streams[0].Changes())
}
