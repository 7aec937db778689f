package bolt_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

func TestMain(m *testing.M) {
	logstoretest.CrashChild(bolt.Open)
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, dir string) logstore.Store {
	tb.Helper()
	store, err := bolt.Open(dir, nil)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return store
}

func TestStore(t *testing.T) {
	logstoretest.Run(t, open)
}

func BenchmarkStore(b *testing.B) {
	logstoretest.Bench(b, open)
}
