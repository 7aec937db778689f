package consensus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// fakeLeader is the view that announcements have of their instance: its term, whether it
// leads, and how far its log goes.
type fakeLeader struct {
	mu           sync.Mutex
	term         uint64
	leading      bool
	commit, last uint64
}

func (p *fakeLeader) leads() (uint64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term, p.leading
}

func (p *fakeLeader) commitIndex() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commit
}

func (p *fakeLeader) lastIndex() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *fakeLeader) move(commit, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commit, p.last = commit, last
}

func (p *fakeLeader) follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leading = false
}

// newTestAnnouncements returns the announcements of a leader of term 7, and a function that
// counts those sent to each follower.
func newTestAnnouncements(t *testing.T) (p *fakeLeader, a *announcements, told func() map[raft.ServerID]int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	sent := map[raft.ServerID]int{}
	p = &fakeLeader{term: 7, leading: true}
	a = newAnnouncements(ctx, p, func(h heartbeat) error {
		if commit := p.commitIndex(); h.term != 7 || h.committed != (place{commit, 7}) {
			t.Errorf("announcement = %+v, want term 7 and commit index %d", h, commit)
		}
		mu.Lock()
		defer mu.Unlock()
		sent[h.to]++
		return nil
	})
	t.Cleanup(func() {
		cancel()
		a.end()
	})
	return p, a, func() map[raft.ServerID]int {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(sent)
	}
}

// upTo returns a request with two entries, of which index is the last.
func upTo(term, index uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: term, Entries: []*raft.Log{{Index: index - 1, Term: term}, {Index: index, Term: term}}}
}

func TestACommitIsAnnouncedOnceToFollowersThatHaveTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, told := newTestAnnouncements(t)
		expect := func(what string, want map[raft.ServerID]int) {
			t.Helper()
			if got := told(); !maps.Equal(got, want) {
				t.Fatalf("%s: announcements = %v, want %v", what, got, want)
			}
		}
		a.acknowledged("b", upTo(7, 8))
		a.acknowledged("b", upTo(7, 10))
		a.acknowledged("b", upTo(7, 9)) // arrives out of order
		a.acknowledged("c", upTo(7, 9))
		p.move(10, 10)
		a.soon()
		time.Sleep(announceAfter - 1)
		expect("before announceAfter has passed", map[raft.ServerID]int{})
		time.Sleep(time.Nanosecond)
		expect("c lacks the entry", map[raft.ServerID]int{"b": 1})
		a.acknowledged("c", upTo(7, 10))
		time.Sleep(announceAfter)
		expect("c has the entry", map[raft.ServerID]int{"b": 1, "c": 1})
		a.acknowledged("b", &raft.AppendEntriesRequest{Term: 7})
		a.soon()
		time.Sleep(time.Second)
		expect("nothing new is committed", map[raft.ServerID]int{"b": 1, "c": 1})

		p.move(11, 12)
		a.acknowledged("b", upTo(7, 11))
		a.acknowledged("b", upTo(7, 12))
		time.Sleep(time.Second)
		expect("an entry is not committed", map[raft.ServerID]int{"b": 1, "c": 1})
		p.move(12, 12)
		a.soon()
		time.Sleep(announceAfter / 2)
		a.soon() // a second commit restarts the delay
		time.Sleep(announceAfter / 2)
		expect("another commit came a moment ago", map[raft.ServerID]int{"b": 1, "c": 1})
		time.Sleep(announceAfter / 2)
		expect("the entry is committed, and announceAfter has passed", map[raft.ServerID]int{"b": 2, "c": 1})
	})
}

// A lone entry is announced to each follower that has it as soon as it is committed. An
// entry right behind another one is not.
func TestALoneCommitIsAnnouncedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, told := newTestAnnouncements(t)
		expect := func(what string, b, c int) {
			t.Helper()
			if got := told(); got["b"] != b || got["c"] != c {
				t.Fatalf("%s: announcements = %v, want %d to b and %d to c", what, got, b, c)
			}
		}
		p.move(9, 10)
		a.acknowledged("b", upTo(7, 10))
		expect("the entry is not committed", 0, 0)
		p.move(10, 10)
		a.soon()
		expect("c lacks the entry", 1, 0)
		a.acknowledged("c", upTo(7, 10))
		expect("c has the entry", 1, 1)
		time.Sleep(time.Second)
		expect("nothing new is committed", 1, 1)

		p.move(11, 11)
		a.acknowledged("b", upTo(7, 11))
		expect("a second lone entry", 2, 1)
		time.Sleep(announceAfter / 2)
		p.move(12, 12)
		a.acknowledged("b", upTo(7, 12))
		expect("an entry right behind another", 2, 1)
		time.Sleep(announceAfter)
		expect("no further entry followed", 3, 1)
	})
}

func TestTheIndexThatAFollowerIsKnownToHave(t *testing.T) {
	const id, other = "b", "c"
	behind := func(term, index uint64) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index}
	}
	synctest.Test(t, func(t *testing.T) {
		p, a, told := newTestAnnouncements(t)
		p.move(1, 9) // so that nothing is announced
		steps := []struct {
			what    string
			by      raft.ServerID
			took    *raft.AppendEntriesRequest
			reached uint64
		}{
			{"a heartbeat", id, &raft.AppendEntriesRequest{Term: 7}, 0},
			{"a request without entries behind a snapshot", id, behind(7, 4), 4},
			{"entries", id, upTo(7, 6), 6},
			{"an answer that came out of order", id, behind(7, 4), 6},
			{"an answer of another follower", other, upTo(7, 8), 6},
			{"an answer of an earlier term", id, upTo(6, 9), 6},
		}
		for _, step := range steps {
			a.acknowledged(step.by, step.took)
			if got := a.reached(id); got != step.reached {
				t.Errorf("index known of the follower after %s = %d, want %d", step.what, got, step.reached)
			}
		}
		p.follow()
		if got := a.reached(id); got != 0 {
			t.Errorf("index known of the follower once the leader follows = %d, want 0", got)
		}
		if sent := told(); len(sent) > 0 {
			t.Errorf("announcements = %v, want none", sent)
		}
	})
}

func TestADeposedLeaderAnnouncesNothing(t *testing.T) {
	for name, test := range map[string]func(*fakeLeader, *announcements){
		"the leader has become a follower": func(p *fakeLeader, a *announcements) {
			p.move(9, 10)
			a.acknowledged("b", upTo(7, 10))
			p.follow()
			p.move(10, 10)
			a.soon()
			time.Sleep(time.Second)
			a.soon()
		},
		"the entry was acknowledged in an earlier term": func(_ *fakeLeader, a *announcements) {
			a.acknowledged("b", upTo(6, 10))
		},
		"the entry acknowledged in an earlier term may be overwritten": func(_ *fakeLeader, a *announcements) {
			a.acknowledged("b", upTo(6, 10))
			a.acknowledged("b", upTo(7, 9))
		},
		"an acknowledgement of an earlier term comes late": func(_ *fakeLeader, a *announcements) {
			a.acknowledged("b", upTo(7, 9))
			a.acknowledged("b", upTo(6, 10))
		},
		"the leader is being closed": func(p *fakeLeader, a *announcements) {
			p.move(9, 10)
			a.acknowledged("b", upTo(7, 10))
			a.end()
			p.move(10, 10)
			a.soon()
			a.announce()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, a, told := newTestAnnouncements(t)
				p.move(10, 10)
				test(p, a)
				time.Sleep(time.Second)
				if got := told(); len(got) > 0 {
					t.Errorf("announcements = %v, want none", got)
				}
			})
		})
	}
}

// Without announcements, raft tells the followers of each entry after commitTimeout, or up
// to twice that.
func TestFollowersLearnOfACommitAtOnce(t *testing.T) {
	const commitTimeout = 2 * time.Second
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.settings = func(settings *raft.Config) {
			neverDeposed(settings)
			settings.CommitTimeout = commitTimeout
		}
	})
	leader := cluster[0]
	heard := func(what string, began time.Time) {
		t.Helper()
		if took := time.Since(began); took > commitTimeout {
			t.Errorf("the followers learned of %s after %v, want sooner than raft tells them", what, took)
		}
	}
	for n := range 5 {
		began := time.Now()
		change := register(t, leader, fmt.Sprintf("node-%d", n))
		for _, follower := range cluster[1:] {
			follower.eventually(t, "at the leader's commit index", func(s ports.LocalState) bool {
				return s.View.Revision() >= change.Revision
			})
		}
		heard("a node", began)
	}
	began := time.Now()
	err := leader.Add(within(t), domain.Instance{ID: "instance-2", RaftAddress: cluster[2].raftAddress(), Suffrage: domain.Nonvoter})
	if err != nil {
		t.Fatal(err)
	}
	for _, follower := range cluster[1:] {
		follower.eventually(t, "aware of the membership", func(s ports.LocalState) bool {
			return slices.ContainsFunc(s.Committed, func(c ports.CommittedRoster) bool {
				self, _ := c.Roster.Find("instance-2")
				return self.Suffrage == domain.Nonvoter && len(c.Roster.Instances()) == 3
			})
		})
	}
	heard("the membership", began)
}
