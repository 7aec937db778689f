package domain_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// The cost of a command must grow no faster than the logarithm of the number of nodes.
func benchmarkSizes(b *testing.B, run func(*testing.B, *domain.Registry)) {
	for _, size := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			r := domain.NewRegistry()
			for i := range size {
				apply(b, r, put(node(b, fmt.Sprintf("node%d", i), address(i))))
			}
			// The history of a registry in use is full.
			n := node(b, "node0", address(0))
			for r.View().Revision() <= 100_000+domain.HistoryLength {
				n.Weight = int(r.View().Revision())
				apply(b, r, put(n))
			}
			b.ReportAllocs()
			run(b, r)
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, r *domain.Registry) {
		size := r.View().Len()
		nodes := make([]domain.CacheNode, 0, size)
		for n := range r.View().Nodes() {
			nodes = append(nodes, *n)
		}
		// The nodes come in random order, as from clients.
		rand.New(rand.NewPCG(1, 2)).Shuffle(size, func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		i := 0
		for b.Loop() {
			n := &nodes[i%size]
			n.Weight = i % domain.MaxWeight
			if _, err := r.Apply(domain.Register{Node: *n}); err != nil {
				b.Fatal(err)
			}
			if i++; i%16 == 0 {
				r.View() // as after a group of entries
			}
		}
	})
}

func BenchmarkAddAndRemove(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, r *domain.Registry) {
		more := put(node(b, "node5x", "more:1"))
		for b.Loop() {
			if _, err := r.Apply(more); err != nil {
				b.Fatal(err)
			}
			if _, err := r.Apply(remove("node5x")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkView(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, r *domain.Registry) {
		for b.Loop() {
			if v := r.View(); v.Len() == 0 {
				b.Fatal("the view is empty")
			}
		}
	})
}

// A stream asks for the changes after its position each time it wakes. The cost must not
// depend on the length of the history.
func BenchmarkSince(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, r *domain.Registry) {
		const behind = 100
		for b.Loop() {
			view := r.View()
			if changes, ok := view.Since(view.Revision() - behind); !ok || len(changes) != behind {
				b.Fatalf("Since = %d changes, %v, want %d", len(changes), ok, behind)
			}
		}
	})
}

// Every replica replaces all nodes in one step, and answers nothing meanwhile.
func BenchmarkReplace(b *testing.B) {
	r := domain.NewRegistry()
	with := domain.NewReplacement()
	for i := range domain.MaxNodes {
		n := node(b, fmt.Sprintf("node%06d", i), address(i))
		apply(b, r, put(n))
		n.Slot, n.Weight = i, 7
		if err := with.Add(&n); err != nil {
			b.Fatal(err)
		}
	}
	revision, nodes, history := r.View().Revision(), slices.Collect(r.View().Nodes()), r.View().History()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r, err := domain.RestoreRegistry(revision, nodes, history)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if replaced, err := r.Replace(with, nil); err != nil || replaced.Updated != domain.MaxNodes {
			b.Fatalf("Replace = %+v, %v, want %d updates", replaced, err, domain.MaxNodes)
		}
	}
}
