package wal_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/wal"
)

func TestMain(m *testing.M) {
	logstoretest.CrashChild(wal.Open)
	goleak.VerifyTestMain(m)
}

var backend = logstore.Backend{Name: "wal", Open: wal.Open, Inspect: wal.Inspect}

func open(tb testing.TB, dir string) logstore.Store {
	tb.Helper()
	store, err := wal.Open(dir, nil)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return store
}

func TestStore(t *testing.T) {
	logstoretest.Run(t, open)
}

func TestInspect(t *testing.T) { logstoretest.RunInspect(t, backend) }

func BenchmarkStore(b *testing.B) {
	logstoretest.Bench(b, open)
}
