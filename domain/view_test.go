package domain_test

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// fingerprint hashes everything that a view shows.
func fingerprint(seed maphash.Seed, v domain.View) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	write := func(n *domain.CacheNode) {
		if n != nil {
			maphash.WriteComparable(&h, [4]int{n.Slot, n.Weight, int(n.CreatedRevision), int(n.Revision)})
			h.WriteString(n.ID)
			h.WriteString(n.Address)
			h.WriteString(n.Labels["k"])
		}
	}
	for n := range v.Nodes() {
		write(n)
	}
	for _, change := range v.History() {
		maphash.WriteComparable(&h, change.Revision)
		h.WriteString(string(change.Effect))
		write(change.Node)
		write(change.Previous)
	}
	maphash.WriteComparable(&h, [2]int{int(v.Revision()), v.Len()})
	return h.Sum64()
}

// Readers look at old views while the registry goes on, beyond the length of its history,
// so that the memory that they share with it is written, trimmed and moved.
func TestAViewNeverChanges(t *testing.T) {
	const (
		commands = 26_000
		every    = 1_300
		readers  = 2
	)
	seed := maphash.MakeSeed()
	random := rand.New(rand.NewPCG(1, 2))
	r := domain.NewRegistry()
	step := func(i int) {
		id := fmt.Sprintf("n%d", random.IntN(200))
		if random.IntN(4) == 0 {
			_, _ = r.Apply(remove(id)) // the node may not exist
			return
		}
		n := node(t, id, id+":1", weighing(i))
		n.Labels = map[string]string{"k": fmt.Sprint(i)}
		apply(t, r, put(n))
	}

	type taken struct {
		view domain.View
		want uint64
	}
	views := make([]chan taken, readers)
	var reading sync.WaitGroup
	for i := range views {
		views[i] = make(chan taken, commands/every+1)
		reading.Go(func() {
			var held []taken
			for v := range views[i] {
				held = append(held, v)
				for _, v := range held {
					if got := fingerprint(seed, v.view); got != v.want {
						t.Errorf("the view at revision %d has changed", v.view.Revision())
					}
				}
			}
		})
	}
	for i := range commands {
		step(i)
		if i%every == 0 {
			v := taken{view: r.View()}
			v.want = fingerprint(seed, v.view)
			for _, reader := range views {
				reader <- v
			}
		}
	}
	for _, reader := range views {
		close(reader)
	}
	reading.Wait()
	if r.View().Revision() <= domain.HistoryLength {
		t.Errorf("revision = %d, too low for the history to be trimmed", r.View().Revision())
	}
}

// A reader that appends to the changes of a view must not write into the history of other
// views.
func TestAppendingToHistoryChangesNothing(t *testing.T) {
	r := registryOf(t, put(node(t, "a", "h:1")), put(node(t, "b", "h:2")), put(node(t, "c", "h:3")))
	v := r.View()
	changes, _ := v.Since(1)
	later := apply(t, r, put(node(t, "d", "h:4")))
	_ = append(changes, domain.Change{Revision: 99})
	_ = append(v.History(), domain.Change{Revision: 99})
	got, _ := r.View().Since(3)
	mustEqual(t, "the last change", got, []domain.Change{later})
}
