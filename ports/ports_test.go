package ports_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestUnready(t *testing.T) {
	tests := map[string]struct {
		change func(*ports.LocalState)
		want   []string // a part of each reason
	}{
		"an instance that leads is ready":                          {func(s *ports.LocalState) { s.Leading = true }, nil},
		"a follower is ready":                                      {func(*ports.LocalState) {}, nil},
		"an instance that shuts down is not":                       {func(s *ports.LocalState) { s.Closed = true }, []string{"shutting down"}},
		"an instance that is no member is not":                     {func(s *ports.LocalState) { s.Member = false }, []string{"PUT /raft/node"}},
		"a removed instance is not":                                {func(s *ports.LocalState) { s.Removed = true }, []string{"was removed"}},
		"a removed instance does not wait to be added":             {func(s *ports.LocalState) { s.Removed, s.Member = true, false }, []string{"was removed"}},
		"an instance in quarantine is not":                         {func(s *ports.LocalState) { s.Quarantine, s.ClusterID = "it has lost all", "c" }, []string{"because it has lost all"}},
		"an instance that has lost its data need not be added":     {func(s *ports.LocalState) { s.Member, s.Quarantine, s.ClusterID = false, "it has lost all", "c" }, []string{"waits for the leader of cluster c,"}},
		"an instance in quarantine without a cluster is ready":     {func(s *ports.LocalState) { s.Quarantine = "it has nothing" }, nil},
		"a nonvoter that is to become a voter is not":              {func(s *ports.LocalState) { s.Staged = true }, []string{"nonvoter"}},
		"an instance without a leader is not":                      {func(s *ports.LocalState) { s.LeaderID = "" }, []string{"no leader"}},
		"an instance that has moved names its former address":      {func(s *ports.LocalState) { s.LeaderID, s.RosterRaftAddress = "", "h:1" }, []string{"no leader: as far as it knows, it is a member at h:1"}},
		"an instance that has moved is ready once it has a leader": {func(s *ports.LocalState) { s.RosterRaftAddress = "h:1" }, nil},
		"an instance that has not caught up is not":                {func(s *ports.LocalState) { s.CaughtUp = false }, []string{"caught up"}},
		"a disk in trouble is a reason":                            {func(s *ports.LocalState) { s.DiskTrouble = "the disk hangs" }, []string{"the disk hangs"}},
		"a closed instance gives all reasons":                      {func(s *ports.LocalState) { *s = ports.LocalState{Closed: true} }, []string{"shutting down", "PUT /raft/node", "no leader", "caught up"}},
		"a new instance waits to be added":                         {func(s *ports.LocalState) { *s = ports.LocalState{} }, []string{"waits to be added", "no leader", "caught up"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			state := ports.LocalState{Member: true, LeaderID: "n1", CaughtUp: true}
			test.change(&state)
			got := state.Unready("")
			if len(got) != len(test.want) {
				t.Fatalf("reasons = %q, want %q", got, test.want)
			}
			for i, word := range test.want {
				if !strings.Contains(got[i], word) {
					t.Errorf("reason %d = %q, want %q in it", i, got[i], word)
				}
			}
		})
	}
}

func TestEmptyDeliveries(t *testing.T) {
	got := []bool{
		ports.Delivery{}.Empty(),
		ports.Delivery{Changes: []domain.Change{}}.Empty(),
		ports.Delivery{Snapshot: &domain.View{}}.Empty(),
		ports.Delivery{Changes: []domain.Change{{}}}.Empty(),
		ports.ClusterDelivery{}.Empty(),
		ports.ClusterDelivery{Snapshot: &domain.Cluster{}}.Empty(),
		ports.ClusterDelivery{Events: []domain.ClusterEvent{{}}}.Empty(),
	}
	if want := []bool{true, true, false, false, true, false, false}; !reflect.DeepEqual(got, want) {
		t.Errorf("Empty = %v, want %v", got, want)
	}
}
