package e2e_test

import (
	"net/http"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// A voter that the majority depends on can't be removed: an operator who replaces
// instances one after the other may be too fast, or pick the wrong one.
func TestAVoterThatTheMajorityNeedsCannotBeRemoved(t *testing.T) {
	t.Parallel() // see calm
	for name, end := range map[string]func(*harness.Instance){
		"killed": (*harness.Instance).Kill,
		"paused": (*harness.Instance).Pause,
	} {
		t.Run("while another voter is "+name, func(t *testing.T) {
			c := startCalm(t, "wal")
			put(t, c.Leader().Client, "before")
			leader, away, needed := c.Leader(), c.Followers()[0], c.Followers()[1]
			end(away)
			demoted := needed.Member()
			demoted.Suffrage = "nonvoter"
			refusedInstance(t, "the removal", leader.RaftRemove(t.Context(), needed.ID), http.StatusConflict, "no_majority_left")
			refusedInstance(t, "the demotion", leader.RaftAdd(t.Context(), demoted), http.StatusConflict, "no_majority_left")
			refusedInstance(t, "the removal of the leader", leader.RaftRemove(t.Context(), leader.ID), http.StatusConflict, "no_majority_left")
			put(t, leader.Client, "after")
			if now := c.Leader(); now != leader {
				t.Errorf("leader = %s, want %s", now.ID, leader.ID)
			}
			if err := leader.RaftRemove(t.Context(), away.ID); err != nil {
				t.Errorf("the removal of the voter that does not answer: %v, want success", err)
			}
			put(t, needed.Client, "without-it")
		})
	}
}

// A voter that returns without its data does not count at first, so another one
// can't be removed until the cluster has taken away the vote of the first.
func TestAVoterWithoutDataDoesNotCountAtFirst(t *testing.T) {
	t.Parallel() // see calm
	c := startCalm(t, "wal")
	put(t, c.Leader().Client, "before")
	leader, blank, other := c.Leader(), c.Followers()[0], c.Followers()[1]
	blank.Kill()
	remove(t, blank, "")
	blank.Start()
	harness.Eventually(t, "the other voter is no longer needed", func() error {
		err := leader.RaftRemove(t.Context(), other.ID)
		if err != nil {
			refusedInstance(t, "the removal", err, http.StatusConflict, "no_majority_left")
			put(t, leader.Client, "while-it-is")
		}
		return err
	})
	put(t, leader.Client, "after")
	awaitSuffrage(t, leader.Client, blank.ID, "voter", true)
	put(t, leader.Client, "with-both")
}
