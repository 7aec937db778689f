package app_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

func inQuarantine(id string, applied uint64) ports.Identity {
	identity := far(id, applied)
	identity.Quarantined = true
	return identity
}

func TestAVoterInQuarantineIsReadmitted(t *testing.T) {
	tests := map[string]func(t *testing.T, p promoting){
		"it is a nonvoter until it is out of quarantine": func(t *testing.T, p promoting) {
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
		"one that is out of quarantine stays a voter": func(t *testing.T, p promoting) {
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
		"another instance at its address is not taken for it": func(t *testing.T, p promoting) {
			p.peers.Answer("h:2", inQuarantine("n9", 0))
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
		"it is tried again until it can be done": func(t *testing.T, p promoting) {
			p.instance.FailWith(errors.New("no majority"))
			p.peers.Answer("h:2", inQuarantine("n2", 0))
			time.Sleep(time.Minute)
			p.instance.FailWith(nil)
			p.mustHave(t, voter("n2", "h:2"))
			time.Sleep(3 * time.Second)
			p.mustHave(t, nonvoter("n2", "h:2"))
		},
		"who does not lead leaves it alone": func(t *testing.T, p promoting) {
			p.instance.Change(func(s *ports.LocalState) { s.Leading = false })
			p.peers.Answer("h:2", inQuarantine("n2", 0))
			time.Sleep(time.Minute)
			p.mustHave(t, voter("n2", "h:2"))
			p.mustWant(t)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := openPromoting(t)
				defer p.close(t)
				test(t, p)
			})
		})
	}
}

// It may have lost its disk, and come back at another address.
func TestAnInstanceInQuarantineIsANonvoterWherever(t *testing.T) {
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
