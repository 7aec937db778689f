package consensus

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Whatever else succeeds meanwhile: raft would be wrong about the log.
func TestAWriteWhoseErrorRaftIgnoresIsRetriedUntilItSucceeds(t *testing.T) {
	membership := []*raft.Log{{Index: 3, Term: 1, Type: raft.LogConfiguration}}
	for name, test := range map[string]struct {
		breaks func(*badStore)
		write  func(*watched) error
	}{
		"entries of which some may be written": {
			breaks: func(s *badStore) { s.failAppends(syscall.EIO) },
			write:  func(w *watched) error { return w.StoreLogs(entry(3)) },
		},
		"a membership that there is no room for": {
			breaks: func(s *badStore) { s.fill(&logstore.NoRoomError{Directory: "/d"}) },
			write:  func(w *watched) error { return w.StoreLogs(membership) },
		},
		"entries that there is no room for, when the end of the log was removed": {
			breaks: func(s *badStore) { s.fill(&logstore.NoRoomError{Directory: "/d"}) },
			write: func(w *watched) error {
				return errors.Join(w.DeleteRange(2, 2), w.StoreLogs(entry(2)))
			},
		},
		"the removal of the end of the log": {
			breaks: func(s *badStore) { s.failAppends(syscall.EIO) },
			write:  func(w *watched) error { return w.DeleteRange(2, 2) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t)
				defer w.close(t)
				if err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2))); err != nil {
					t.Fatal(err)
				}
				test.breaks(w.bad)
				written := w.mustKeepTrying(t, test.write)
				w.bad.fill(nil)
				w.bad.failAppends(nil)
				if err := <-written; err != nil {
					t.Error(err)
				}
				later(2 * diskRetryPause)
				if fault := w.fault(); fault != nil {
					t.Errorf("it is written, and the trouble is still %v", fault)
				}
				select {
				case <-w.whileStalled():
					t.Error("it is still stuck")
				default:
				}
			})
		})
	}
}

// Raft can live without these.
func TestAWriteWhoseErrorRaftHandlesFailsAtOnce(t *testing.T) {
	noRoom := &logstore.NoRoomError{Directory: "/d"}
	for name, test := range map[string]struct {
		breaks func(*badStore)
		write  func(*watched) error
		err    error
	}{
		"entries that there is no room for, where others have come in the place of the end of the log": {
			breaks: func(s *badStore) { s.fill(noRoom) },
			write:  func(w *watched) error { return w.StoreLogs(entry(4)) },
			err:    noRoom,
		},
		"the removal of the beginning of the log": {
			breaks: func(s *badStore) { s.failAppends(syscall.EIO) },
			write:  func(w *watched) error { return w.DeleteRange(1, 2) },
			err:    syscall.EIO,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t)
				defer w.close(t)
				err := errors.Join(w.StoreLogs(entry(1)), w.StoreLogs(entry(2)), w.StoreLogs(entry(3)))
				if err := errors.Join(err, w.DeleteRange(3, 3), w.StoreLogs(entry(3))); err != nil {
					t.Fatal(err)
				}
				test.breaks(w.bad)
				ended := async(func() error { return test.write(w) })
				synctest.Wait()
				select {
				case err := <-ended:
					if !errors.Is(err, test.err) {
						t.Errorf("it answers %v", err)
					}
				default:
					t.Error("it is tried again")
				}
				w.bad.fill(nil)
				w.bad.failAppends(nil)
			})
		})
	}
}

// A follower takes a membership for stored only when it is: it waits for none, and votes.
func TestAFollowerRefusesAMembershipThatThereIsNoRoomFor(t *testing.T) {
	w := watch(t)
	defer w.close(t)
	w.config.leads = func() bool { return false }
	w.bad.fill(&logstore.NoRoomError{Directory: "/d"})
	refused := w.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration}})
	if !errors.As(refused, new(*logstore.NoRoomError)) {
		t.Errorf("it answers %v", refused)
	}
	w.bad.fill(nil)
}

func TestALeaderWhoseDiskFailsIsReplaced(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	leader := cluster[0]
	register(t, leader, "before")
	stores[0].failAppends(syscall.EIO)
	_, err := leader.Propose(within(t), domain.Register{Node: node(t, "waiting", "waiting:11211")})
	if !errors.Is(err, ports.ErrOutcomeUnknown) || errors.Is(err, ports.ErrNoLeader) {
		t.Errorf("the write ended with %v", err)
	}
	next := leaderOf(t, cluster[1:])
	register(t, next, "meanwhile")
	if state, _ := leader.State(); state.Leading || !strings.Contains(strings.Join(state.Unready(""), "; "), syscall.EIO.Error()) {
		t.Errorf("it leads, or does not say why it is not ready: %+v", state)
	}
	stores[0].failAppends(nil)
	mustFollow(t, leader, leaderOf(t, cluster[1:]))
	mustHold(t, settled(t, leader), "before", "meanwhile")
}

// Raft takes the membership that it could not write down for the latest.
func TestAMembershipThatCouldNotBeStoredIsNotUsed(t *testing.T) {
	t.Parallel()
	cluster, stores := badDisks(t, 3)
	leader, gone := cluster[0], cluster[2].config.ID
	register(t, leader, "before")
	stores[0].fill(&logstore.NoRoomError{Directory: "/d"})
	if err := leader.Remove(within(t), gone); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("the removal ended with %v", err)
	}
	next := leaderOf(t, cluster[1:])
	register(t, next, "meanwhile")
	stores[0].fill(nil)
	mustFollow(t, leader, leaderOf(t, cluster[1:]))
	for _, i := range cluster {
		i.eventually(t, "all are members", func(s ports.LocalState) bool { return len(s.Roster.Instances()) == len(cluster) })
	}
}
