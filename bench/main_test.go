package main

import (
	"os"
	"regexp"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tiny is the same table, of which nothing can be learned but that it works.
var tiny = scale{
	rounds: 1, time: 20 * time.Millisecond,
	clients: []int{1, 2, 3, 4},
	few:     2, usual: 4, list: 8, many: 16, huge: 32,
	subscribers: 3, crowd: 10, pace: 50,
	entries: 100, kills: 1, starts: 1,
}

func TestEveryRowIsMeasured(t *testing.T) {
	directory := t.TempDir()
	kinds, err := build(t.Context(), "..", directory, "")
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{scale: tiny, kinds: kinds, only: regexp.MustCompile(""), directory: directory, progress: os.Stderr}
	results, err := r.run(t.Context(), table(tiny))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, s := range table(tiny) {
		rows += len(s.rows)
	}
	if len(results) != rows {
		t.Errorf("%d of %d rows were measured", len(results), rows)
	}
	for _, result := range results {
		if s, ok := result.median(servers.Nodesmetadata{}.Name()); !ok || s.value <= 0 {
			t.Errorf("%s: %v", result.row.name, s)
		}
	}
}
