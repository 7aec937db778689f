package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// BenchmarkApplyBatch applies 64 updates at a time to a registry of 10 000 nodes: each in an
// entry of its own, or all in a shared one.
func BenchmarkApplyBatch(b *testing.B) {
	b.Run("entries", func(b *testing.B) { benchmarkApply(b, false) })
	b.Run("shared", func(b *testing.B) { benchmarkApply(b, true) })
}

func benchmarkApply(b *testing.B, share bool) {
	const size = 64
	m := newMachine(newSharedState(ports.LocalState{}), func(err error) { b.Fatal(err) })
	m.registry = domaintest.FullRegistry(b)
	var batches [2][]*raft.Log // they undo each other, so that every update is a change
	for i := range batches {
		var entries [][]byte
		for n := range size {
			entries = append(entries, codec.EncodeEntry(domaintest.UsualRegister(b, n, i)))
		}
		if share {
			entries = [][]byte{codec.JoinEntries(entries)}
		}
		for _, entry := range entries {
			batches[i] = append(batches[i], &raft.Log{Index: 1, Term: 1, Data: entry})
		}
	}
	before, applied := m.registry.View().Revision(), 0
	b.ReportAllocs()
	for b.Loop() {
		m.ApplyBatch(batches[applied%2])
		applied++
	}
	if made := m.registry.View().Revision() - before; int(made) != applied*size {
		b.Fatalf("changes of %d batches = %d, want one for each update", applied, made)
	}
	b.ReportMetric(float64(applied*size)/b.Elapsed().Seconds(), "updates/s")
}
