package consensus

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkGate measures reads through a gate whose voters answer at once. That leaves the
// local cost of a read, which concurrent readers share.
func BenchmarkGate(b *testing.B) {
	for _, readers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			leadership, e := newFakeLeadership(), newEvidence()
			leadership.answer = func() { e.acknowledged("b", 7, e.now(), time.Now()) }
			g := &gate{leadership: leadership, evidence: e}
			defer g.rounds.end()
			b.ReportAllocs()
			var reading sync.WaitGroup
			b.ResetTimer()
			for reader := range readers {
				reading.Go(func() {
					for i := reader; i < b.N; i += readers {
						if _, err := g.readIndex(b.Context()); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			reading.Wait()
			b.ReportMetric(float64(leadership.provoked.Load())/float64(b.N), "rounds/op")
		})
	}
}
