package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, dir string) logstore.Store {
	tb.Helper()
	store, err := memory.Open(dir, nil)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return store
}

func TestStore(t *testing.T) {
	logstoretest.RunVolatile(t, open)
}

func BenchmarkStore(b *testing.B) {
	logstoretest.Bench(b, open)
}
