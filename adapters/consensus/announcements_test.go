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

// position is where a leader is, until a test says otherwise.
type position struct {
	mu           sync.Mutex
	term         uint64
	leading      bool
	commit, last uint64
}

func (p *position) leads() (uint64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term, p.leading
}

func (p *position) commitIndex() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commit
}

func (p *position) lastIndex() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *position) move(commit, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commit, p.last = commit, last
}

func (p *position) follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leading = false
}

// announcing gives the announcements of a leader of term 7, and counts those to each.
func announcing(t *testing.T) (p *position, a *announcements, told func() map[raft.ServerID]int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	sent := map[raft.ServerID]int{}
	p = &position{term: 7, leading: true}
	a = newAnnouncements(ctx, p, func(h heartbeat) error {
		if commit := p.commitIndex(); h.term != 7 || h.committed != (place{commit, 7}) {
			t.Errorf("announced %+v, when %d is committed", h, commit)
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

// upTo is a request with the entries before, and up to, an index.
func upTo(term, index uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: term, Entries: []*raft.Log{{Index: index - 1, Term: term}, {Index: index, Term: term}}}
}

func TestACommitIsAnnouncedOnceToFollowersThatHaveTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, told := announcing(t)
		expect := func(what string, want map[raft.ServerID]int) {
			t.Helper()
			if got := told(); !maps.Equal(got, want) {
				t.Fatalf("%s: told %v, want %v", what, got, want)
			}
		}
		a.acknowledged("b", upTo(7, 8))
		a.acknowledged("b", upTo(7, 10))
		a.acknowledged("b", upTo(7, 9)) // which comes late
		a.acknowledged("c", upTo(7, 9))
		p.move(10, 10)
		a.soon()
		time.Sleep(announceAfter - 1)
		expect("before it is time", map[raft.ServerID]int{})
		time.Sleep(time.Nanosecond)
		expect("c lacks the entry", map[raft.ServerID]int{"b": 1})
		a.acknowledged("c", upTo(7, 10))
		time.Sleep(announceAfter)
		expect("c has it", map[raft.ServerID]int{"b": 1, "c": 1})
		a.acknowledged("b", &raft.AppendEntriesRequest{Term: 7})
		a.soon()
		time.Sleep(time.Second)
		expect("nothing is new", map[raft.ServerID]int{"b": 1, "c": 1})

		p.move(11, 12)
		a.acknowledged("b", upTo(7, 11))
		a.acknowledged("b", upTo(7, 12))
		time.Sleep(time.Second)
		expect("an entry is on its way", map[raft.ServerID]int{"b": 1, "c": 1})
		p.move(12, 12)
		a.soon()
		time.Sleep(announceAfter / 2)
		a.soon() // more was committed
		time.Sleep(announceAfter / 2)
		expect("something happened a moment ago", map[raft.ServerID]int{"b": 1, "c": 1})
		time.Sleep(announceAfter / 2)
		expect("it is committed", map[raft.ServerID]int{"b": 2, "c": 1})
	})
}

// An entry that comes alone is announced to each of those who have it as soon as it is
// committed, and one that comes right behind another is not.
func TestALoneCommitIsAnnouncedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, told := announcing(t)
		expect := func(what string, b, c int) {
			t.Helper()
			if got := told(); got["b"] != b || got["c"] != c {
				t.Fatalf("%s: told %v, want b %d times, and c %d", what, got, b, c)
			}
		}
		p.move(9, 10)
		a.acknowledged("b", upTo(7, 10))
		expect("it is not committed", 0, 0)
		p.move(10, 10)
		a.soon()
		expect("c lacks it", 1, 0)
		a.acknowledged("c", upTo(7, 10))
		expect("c has it", 1, 1)
		time.Sleep(time.Second)
		expect("nothing is new", 1, 1)

		p.move(11, 11)
		a.acknowledged("b", upTo(7, 11))
		expect("it came alone, too", 2, 1)
		time.Sleep(announceAfter / 2)
		p.move(12, 12)
		a.acknowledged("b", upTo(7, 12))
		expect("it came right behind another", 2, 1)
		time.Sleep(announceAfter)
		expect("nothing came behind it", 3, 1)
	})
}

func TestTheIndexThatAFollowerIsKnownToHave(t *testing.T) {
	const id, other = "b", "c"
	behind := func(term, index uint64) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index}
	}
	synctest.Test(t, func(t *testing.T) {
		p, a, told := announcing(t)
		p.move(1, 9) // so that nothing is announced
		steps := []struct {
			what    string
			by      raft.ServerID
			took    *raft.AppendEntriesRequest
			reached uint64
		}{
			{"nothing but a heartbeat", id, &raft.AppendEntriesRequest{Term: 7}, 0},
			{"what is behind a snapshot", id, behind(7, 4), 4},
			{"entries", id, upTo(7, 6), 6},
			{"an answer that came late", id, behind(7, 4), 6},
			{"what another one took", other, upTo(7, 8), 6},
			{"an answer of an earlier term", id, upTo(6, 9), 6},
		}
		for _, step := range steps {
			a.acknowledged(step.by, step.took)
			if got := a.reached(id); got != step.reached {
				t.Errorf("after %s: up to %d, want %d", step.what, got, step.reached)
			}
		}
		p.follow()
		if got := a.reached(id); got != 0 {
			t.Errorf("as a follower it knows of one that has %d", got)
		}
		if sent := told(); len(sent) > 0 {
			t.Errorf("announced: %v", sent)
		}
	})
}

func TestADeposedLeaderAnnouncesNothing(t *testing.T) {
	for name, test := range map[string]func(*position, *announcements){
		"it is a follower": func(p *position, a *announcements) {
			p.move(9, 10)
			a.acknowledged("b", upTo(7, 10))
			p.follow()
			p.move(10, 10)
			a.soon()
			time.Sleep(time.Second)
			a.soon()
		},
		"what was taken was of an earlier term": func(_ *position, a *announcements) {
			a.acknowledged("b", upTo(6, 10))
		},
		"what was taken in an earlier term may be gone": func(_ *position, a *announcements) {
			a.acknowledged("b", upTo(6, 10))
			a.acknowledged("b", upTo(7, 9))
		},
		"an earlier term is not heard of any more": func(_ *position, a *announcements) {
			a.acknowledged("b", upTo(7, 9))
			a.acknowledged("b", upTo(6, 10))
		},
		"it is being closed": func(p *position, a *announcements) {
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
				p, a, told := announcing(t)
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

// Raft would tell the followers of each entry after commitTimeout, or up to twice that.
func TestFollowersLearnOfACommitAtOnce(t *testing.T) {
	const commitTimeout = 2 * time.Second
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.settings = func(settings *raft.Config) {
			loyal(settings)
			settings.CommitTimeout = commitTimeout
		}
	})
	leader := cluster[0]
	heard := func(what string, began time.Time) {
		t.Helper()
		if took := time.Since(began); took > commitTimeout {
			t.Errorf("the followers heard of %s after %v, when raft would have told them", what, took)
		}
	}
	for n := range 5 {
		began := time.Now()
		change := register(t, leader, fmt.Sprintf("node-%d", n))
		for _, follower := range cluster[1:] {
			follower.eventually(t, "as far as the leader", func(s ports.LocalState) bool {
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
		follower.eventually(t, "told of the membership", func(s ports.LocalState) bool {
			return slices.ContainsFunc(s.Committed, func(c ports.CommittedRoster) bool {
				self, _ := c.Roster.Find("instance-2")
				return self.Suffrage == domain.Nonvoter && len(c.Roster.Instances()) == 3
			})
		})
	}
	heard("the membership", began)
}
