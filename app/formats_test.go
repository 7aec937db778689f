package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// formatted is the identity of an instance that reads a format.
func formatted(id string, format int) ports.Identity {
	identity := far(id, 100)
	identity.Format = format
	return identity
}

func TestTheWatchLearnsWhichFormatInstancesRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPromoting(t)
		defer p.close(t)
		p.instance.Reads(3, nil)
		steps := []struct {
			says   ports.Identity
			silent bool
			shared int
		}{
			{says: far("n2", 100), shared: 1}, // it names no format
			{says: formatted("n2", 2), shared: 2},
			{silent: true, shared: 2}, // its last answer counts
			{says: formatted("n2", 3), shared: 3},
			{says: formatted("n2", 4), shared: 3},
			{says: formatted("n7", 1), shared: 3}, // another instance at its address
			{says: formatted("n2", 1), shared: 1},
		}
		for n, step := range steps {
			if p.peers.Answer("h:2", step.says); step.silent {
				p.peers.Silence("h:2")
			}
			time.Sleep(2500 * time.Millisecond)
			synctest.Wait()
			if got := p.instance.Shared(); got != step.shared {
				t.Errorf("step %d: format that all read = %d, want %d", n, got, step.shared)
			}
		}
	})
}

func TestAnInstanceThatCannotReadTheLogIsNotAdded(t *testing.T) {
	const silent = -1 // silent since before the leader began, so the log may need any format
	tests := map[string]struct {
		others, newcomer int
		force            bool
		err              error
	}{
		"it reads the format that all read":     {others: 3, newcomer: 3},
		"it reads a later format":               {others: 3, newcomer: 4},
		"it reads an earlier format":            {others: 3, newcomer: 2, err: domain.ErrTooOld},
		"it names no format":                    {others: 3, newcomer: 0, err: domain.ErrTooOld},
		"earlier, and others are silent":        {others: silent, newcomer: 2, err: domain.ErrTooOld},
		"earlier, but the request is forced":    {others: 3, newcomer: 2, force: true},
		"earlier, as others still do":           {others: 2, newcomer: 2},
		"it names no format, as others do not":  {others: 0, newcomer: 0},
		"earlier than others that are upgraded": {others: 2, newcomer: 1, err: domain.ErrTooOld},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := openPromoting(t)
				defer p.close(t)
				p.instance.Reads(3, nil)
				if p.peers.Answer("h:2", formatted("n2", test.others)); test.others == silent {
					p.peers.Silence("h:2")
				}
				p.peers.Answer("h:3", formatted("n3", test.newcomer))
				time.Sleep(2500 * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := p.Add(ctx, nonvoter("n3", "h:3"), test.force)
				if !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), `"n3"`) {
					t.Errorf("error = %v, want %v, with the id n3", err, test.err)
				}
				state, _ := p.instance.State()
				if _, isMember := state.Roster.Find("n3"); isMember != (test.err == nil) {
					t.Errorf("n3 is a member = %v, want %v", isMember, test.err == nil)
				}
			})
		})
	}
}
