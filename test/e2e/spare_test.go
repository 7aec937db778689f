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
		t.Run("another is "+name, func(t *testing.T) {
			c := startCalm(t, "wal")
			put(t, c.Leader().Client, "before")
			leader, away, needed := c.Leader(), c.Followers()[0], c.Followers()[1]
			end(away)
			demoted := needed.Member()
			demoted.Suffrage = "nonvoter"
			refusedInstance(t, "its removal", leader.RaftRemove(t.Context(), needed.ID), http.StatusConflict, "no_majority_left")
			refusedInstance(t, "its demotion", leader.RaftAdd(t.Context(), demoted), http.StatusConflict, "no_majority_left")
			refusedInstance(t, "the leader's removal", leader.RaftRemove(t.Context(), leader.ID), http.StatusConflict, "no_majority_left")
			put(t, leader.Client, "after")
			if now := c.Leader(); now != leader {
				t.Errorf("%s leads", now.ID)
			}
			if err := leader.RaftRemove(t.Context(), away.ID); err != nil {
				t.Errorf("who is not needed can't be removed: %v", err)
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
	blank.Restart()
	harness.Eventually(t, "the other one is not needed", func() error {
		err := leader.RaftRemove(t.Context(), other.ID)
		if err != nil {
			refusedInstance(t, "its removal", err, http.StatusConflict, "no_majority_left")
			put(t, leader.Client, "while-it-is")
		}
		return err
	})
	put(t, leader.Client, "after")
	awaitSuffrage(t, leader.Client, blank.ID, "voter", true)
	put(t, leader.Client, "with-both")
}
