package e2e_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// durable are the storage backends whose data survives the process.
var durable = []string{"bolt", "badger", "wal"}

// eachBackend runs a test with each durable backend.
func eachBackend(t *testing.T, test func(t *testing.T, backend string)) {
	t.Helper()
	for _, backend := range durable {
		t.Run(backend, func(t *testing.T) { test(t, backend) })
	}
}

// allBackends is eachBackend for tests that mostly wait for restarts and do not
// measure time. They run in parallel.
func allBackends(t *testing.T, test func(t *testing.T, backend string)) {
	t.Helper()
	eachBackend(t, func(t *testing.T, backend string) {
		t.Parallel()
		test(t, backend)
	})
}

// everyBackend is explained at anyBackend.
var everyBackend = flag.Bool("every_backend", false, "run the tests that do not depend on the storage backend with each backend, too")

// anyBackend runs a test that does not depend on the backend: with the default one,
// or with each if -every_backend is set. What depends on the backend is tested with
// each of them, in the backend's package and wherever eachBackend is called.
func anyBackend(t *testing.T, test func(t *testing.T, backend string)) {
	t.Helper()
	for _, backend := range someBackends() {
		t.Run(backend, func(t *testing.T) { test(t, backend) })
	}
}

func someBackends() []string {
	if *everyBackend {
		return durable
	}
	return []string{"wal"}
}

// start returns a cluster with the default timing.
func start(t *testing.T, backend string) *harness.Cluster {
	t.Helper()
	return harness.Start(t, harness.Options{Backend: backend})
}

// calm are flags for clusters whose leader changes only when a test makes it: with
// shorter timeouts, a leader on a busy machine can seem dead. A test with calm
// clusters that mostly waits and does not measure time may run in parallel with
// others, after all tests that may not.
var calm = []string{"--raft_heartbeat_timeout=1s", "--raft_election_timeout=1s"}

func startCalm(t *testing.T, backend string) *harness.Cluster {
	t.Helper()
	return harness.Start(t, harness.Options{Backend: backend, Flags: calm})
}

// put stores a node that does not exist yet, and returns the node as stored.
func put(t *testing.T, through *harness.Client, id string) harness.Stored {
	t.Helper()
	stored, err := through.Put(t.Context(), harness.NewNode(id))
	if err != nil {
		t.Fatalf("put %s through %s: %v", id, through.Address(), err)
	}
	if !stored.Created || stored.ID != id {
		t.Fatalf("put %s through %s = %+v, want a new node with this id", id, through.Address(), stored)
	}
	return stored
}

func list(t *testing.T, through *harness.Client) harness.Registry {
	t.Helper()
	registry, err := through.List(t.Context())
	if err != nil {
		t.Fatalf("list through %s: %v", through.Address(), err)
	}
	return registry
}

// sameRegistry fails the test unless got equals want.
func sameRegistry(t *testing.T, what string, got, want harness.Registry) {
	t.Helper()
	if got.Revision != want.Revision {
		t.Errorf("%s is at revision %d, want %d", what, got.Revision, want.Revision)
	}
	ids := map[string]bool{}
	for id := range want.Nodes {
		ids[id] = true
	}
	for id := range got.Nodes {
		ids[id] = true
	}
	shown := 0
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if !reflect.DeepEqual(got.Nodes[id], want.Nodes[id]) {
			t.Errorf("%s: node %s is %+v, want %+v", what, id, got.Nodes[id], want.Nodes[id])
			if shown++; shown == 5 {
				return
			}
		}
	}
}

// history returns the changes after revision since, up to until, from a stream. It
// fails the test unless each of them comes exactly once, in order.
func history(t *testing.T, through *harness.Client, since, until uint64) []harness.Change {
	t.Helper()
	stream, err := through.Stream(t.Context(), "/nodes/sse", fmt.Sprint(since))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var changes []harness.Change
	for revision := since + 1; revision <= until; revision++ {
		event, err := stream.Event()
		if err != nil {
			t.Fatalf("the stream ended before revision %d: %v", revision, err)
		}
		var change harness.Change
		if err := json.Unmarshal([]byte(event.Data), &change); err != nil {
			t.Fatal(err)
		}
		if change.Revision != revision || event.ID != fmt.Sprint(revision) || event.Type != change.Type {
			t.Fatalf("event of the stream = %+v, want the change with revision %d", event, revision)
		}
		changes = append(changes, change)
	}
	return changes
}

// replay applies changes, from the first one on, to an empty registry.
func replay(changes []harness.Change) harness.Registry {
	registry := harness.Registry{Nodes: map[string]harness.Node{}}
	for _, change := range changes {
		registry.Revision = change.Revision
		if change.Type == "removed" {
			delete(registry.Nodes, change.Node.ID)
		} else {
			registry.Nodes[change.Node.ID] = change.Node
		}
	}
	return registry
}

// checkDense fails the test unless the history is complete from the first change on
// and leads to the registry that the cluster lists.
func checkDense(t *testing.T, through *harness.Client) harness.Registry {
	t.Helper()
	registry := list(t, through)
	sameRegistry(t, "the replayed history", replay(history(t, through, 0, registry.Revision)), registry)
	return registry
}
