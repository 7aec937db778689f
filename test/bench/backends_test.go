package bench

import (
	"fmt"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// BenchmarkBackends compares what writes cost with each durable backend, in turns.
func BenchmarkBackends(b *testing.B) {
	for _, clients := range []int{1, 16, 64, 256} {
		for _, backend := range []string{"bolt", "badger", "wal"} {
			b.Run(fmt.Sprintf("write/clients=%d/%s", clients, backend), func(b *testing.B) {
				cluster := harness.Start(b, harness.Options{Backend: backend, Build: harness.Build{Plain: true}})
				measure(b, cluster.Leader().Application, clients, func(client, n int) []byte { return put(client%100, n) })
			})
		}
	}
}
