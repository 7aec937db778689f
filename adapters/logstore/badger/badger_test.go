package badger_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// aloneEnv tells a child process to run one test and not to look for goroutines.
const aloneEnv = "BADGER_TEST_ALONE"

func TestMain(m *testing.M) {
	logstoretest.CrashChild(badger.Open)
	if _, alone := os.LookupEnv(aloneEnv); alone {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, dir string) logstore.Store {
	tb.Helper()
	store, err := badger.Open(dir, nil)
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
