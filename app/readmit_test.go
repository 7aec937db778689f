package app_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func inQuarantine(id string, applied uint64) ports.Identity {
	identity := far(id, applied)
	identity.Quarantined = true
	return identity
}

func TestAVoterInQuarantineIsReadmitted(t *testing.T) {
	tests := map[string]func(t *testing.T, p promoting){
		"a voter in quarantine is a nonvoter until it leaves quarantine": func(t *testing.T, p promoting) {
			p.peers.Answer("h:2", inQuarantine("n2", 0))
			time.Sleep(3 * time.Second)
			p.mustHave(t, nonvoter("n2", "h:2"))
			p.mustWant(t, "n2")
			p.peers.Answer("h:2", inQuarantine("n2", 1000))
			time.Sleep(3 * time.Second)
			p.mustHave(t, nonvoter("n2", "h:2"))
			p.peers.Answer("h:2", far("n2", 1000))
			time.Sleep(3 * time.Second)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
		"a voter that is not in quarantine stays a voter": func(t *testing.T, p promoting) {
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
		"a nonvoter in quarantine stays a nonvoter": func(t *testing.T, p promoting) {
			mustAdd(t, p.instance, nonvoter("n3", "h:3"))
			p.peers.Answer("h:3", inQuarantine("n3", 0))
			time.Sleep(3 * time.Second)
			p.mustWant(t)
			p.peers.Answer("h:3", far("n3", 1000))
			time.Sleep(time.Minute)
			p.mustHave(t, nonvoter("n3", "h:3"))
		},
		"another instance at its address does not count": func(t *testing.T, p promoting) {
			p.peers.Answer("h:2", inQuarantine("n9", 0))
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
		"the demotion is tried again until it succeeds": func(t *testing.T, p promoting) {
			p.instance.FailWith(errors.New("no majority"))
			p.peers.Answer("h:2", inQuarantine("n2", 0))
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.instance.FailWith(nil)
			time.Sleep(3 * time.Second)
			p.mustHave(t, nonvoter("n2", "h:2"))
		},
		"a follower demotes nobody": func(t *testing.T, p promoting) {
			p.instance.Change(func(s *ports.LocalState) { s.Leading = false })
			p.peers.Answer("h:2", inQuarantine("n2", 0))
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
	}
	eachPromoting(t, tests)
}

func TestAnInstanceRemovedDuringItsReadmissionStaysRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		instance := portstest.NewInstance("n1", "h:1")
		instance.NewFollower("n2", "h:2")
		asked := 0 // by one after the other: who is readmitted was asked by the watch
		cluster := newCluster(instance, peersFunc(func(ctx context.Context, _ string) (ports.Identity, error) {
			if asked++; asked == 2 {
				if err := instance.Remove(ctx, "n2"); err != nil {
					t.Error(err)
				}
			}
			return inQuarantine("n2", 0), nil
		}))
		p := promoting{Cluster: cluster, instance: instance}
		if err := p.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer p.close(t)
		time.Sleep(3 * time.Second)
		if state, _ := instance.State(); asked < 2 || len(state.Roster.Instances()) != 1 {
			t.Errorf("n2 was asked %d times and the membership is %+v, want at least 2 and only the leader", asked, state.Roster)
		}
		p.mustWant(t)
	})
}

// An instance may leave quarantine before its readmission begins.
func TestAVoterThatLeavesQuarantineInTimeStaysAVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		instance := portstest.NewInstance("n1", "h:1")
		instance.NewFollower("n2", "h:2")
		instance.Change(func(s *ports.LocalState) { s.Applied = 100 })
		asked := 0
		cluster := newCluster(instance, peersFunc(func(context.Context, string) (ports.Identity, error) {
			if asked++; asked == 1 {
				return inQuarantine("n2", 0), nil
			}
			return far("n2", 0), nil
		}))
		p := promoting{Cluster: cluster, instance: instance}
		if err := p.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer p.close(t)
		time.Sleep(3 * time.Second)
		p.mustHave(t, voter("n2", "h:2"))
		p.mustWant(t)
	})
}

// An instance that lost its disk may come back at another address.
func TestAnInstanceInQuarantineMovesAsANonvoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPromoting(t)
		defer p.close(t)
		p.peers.Silence("h:2")
		p.peers.Answer("h:4", inQuarantine("n2", 1000))
		answer := make(chan error, 1)
		go func() {
			_, err := p.Add(t.Context(), voter("n2", "h:4"), false)
			answer <- err
		}()
		time.Sleep(3 * time.Second)
		p.mustHave(t, nonvoter("n2", "h:4"))
		p.peers.Answer("h:4", far("n2", 1000))
		if err := <-answer; err != nil {
			t.Error(err)
		}
		p.mustHave(t, voter("n2", "h:4"))
	})
}
