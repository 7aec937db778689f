package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// timeline is the registry at every revision over a while: its state at the
// beginning, and all changes since.
type timeline struct {
	start   harness.Registry
	changes []harness.Change
}

// walk calls at for every revision, with the registry at that revision and the
// change that led to it, which is nil at the beginning. at must not keep the
// registry.
func (l timeline) walk(at func(registry harness.Registry, change *harness.Change)) {
	now := harness.Registry{Revision: l.start.Revision, Nodes: maps.Clone(l.start.Nodes)}
	at(now, nil)
	for i := range l.changes {
		change := &l.changes[i]
		now.Revision = change.Revision
		if change.Type == "removed" {
			delete(now.Nodes, change.Node.ID)
		} else {
			now.Nodes[change.Node.ID] = change.Node
		}
		at(now, change)
	}
}

// sample is a list that a client received.
type sample struct {
	what   string
	filter harness.Filter
	got    harness.Registry
}

// checkSamples fails the test unless each list is the registry at the revision that
// it names, reduced by its filter.
func (l timeline) checkSamples(t *testing.T, samples []sample) {
	t.Helper()
	at := map[uint64][]sample{}
	for _, s := range samples {
		at[s.got.Revision] = append(at[s.got.Revision], s)
	}
	l.walk(func(registry harness.Registry, _ *harness.Change) {
		for _, s := range at[registry.Revision] {
			sameRegistry(t, s.what, s.got, s.filter.Of(registry))
		}
		delete(at, registry.Revision)
	})
	for revision, left := range at {
		t.Errorf("%s: the list names revision %d, which the registry never had", left[0].what, revision)
	}
}

// checkCopy fails the test unless a filtered stream that began with start and
// delivered changes agrees, at every revision, with the filtered registry.
func (l timeline) checkCopy(t *testing.T, what string, filter harness.Filter, start harness.Registry, changes []harness.Change) {
	t.Helper()
	copied := maps.Clone(start.Nodes)
	faults := 0
	l.walk(func(registry harness.Registry, change *harness.Change) {
		if registry.Revision == start.Revision {
			sameRegistry(t, what, start, filter.Of(registry))
		}
		if registry.Revision <= start.Revision || change == nil || faults > 5 {
			return
		}
		if len(changes) > 0 && changes[0].Revision == registry.Revision {
			if changes[0].Type == "removed" {
				delete(copied, changes[0].Node.ID)
			} else {
				copied[changes[0].Node.ID] = changes[0].Node
			}
			changes = changes[1:]
		}
		// Only the node of the change can differ from before.
		id := change.Node.ID
		got, has := copied[id]
		want, is := registry.Nodes[id]
		if is = is && filter.Matches(want); has != is || is && !reflect.DeepEqual(got, want) {
			faults++
			t.Errorf("%s: after revision %d the copy has node %s: %v %+v, want %v %+v", what, registry.Revision, id, has, got, is, want)
		}
	})
	if len(changes) > 0 {
		t.Errorf("%s: delivered %+v, but the registry has no such change at revision %d", what, changes[0], changes[0].Revision)
	}
}

// sampler lists continuously, with one filter after the other.
type sampler struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	samples []sample
}

// startSampler starts listing through each of clients, which are given by name.
func startSampler(t *testing.T, clients map[string]*harness.Client, filters []harness.Filter) *sampler {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &sampler{cancel: cancel}
	for name, client := range clients {
		s.done.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				filter := filters[n%len(filters)]
				registry, err := client.With(filter.Query()).List(ctx)
				if err == nil {
					s.mu.Lock()
					s.samples = append(s.samples, sample{fmt.Sprintf("%s?%s", name, filter.Query()), filter, registry})
					s.mu.Unlock()
				}
				rest(ctx)
			}
		})
	}
	t.Cleanup(func() { s.stop() })
	return s
}

// stop ends the listing and returns all lists.
func (s *sampler) stop() []sample {
	s.cancel()
	s.done.Wait()
	return s.samples
}
