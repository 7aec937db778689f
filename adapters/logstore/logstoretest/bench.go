package logstoretest

import (
	"fmt"
	"testing"
)

// Bench measures what raft waits for: how long StoreLogs takes to make a batch of
// entries of 256 bytes durable.
func Bench(b *testing.B, open Open) {
	for _, count := range []uint64{1, 64} {
		b.Run(fmt.Sprintf("StoreLogs of %d", count), func(b *testing.B) {
			store := open(b, b.TempDir())
			defer func() {
				if err := store.Close(); err != nil {
					b.Error(err)
				}
			}()
			next := uint64(1)
			batch := entries(1, count, 256)
			for b.Loop() {
				for at := range batch {
					batch[at].Index = next
					next++
				}
				mustStore(b, store, batch...)
			}
			b.ReportMetric(float64(b.N)*float64(count)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
