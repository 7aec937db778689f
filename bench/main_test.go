package main

import (
	"errors"
	"io"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tiny measures the same table at a scale that shows only that every row works.
var tiny = scale{
	rounds: 1, time: 20 * time.Millisecond,
	clients: []int{1, 2, 3, 4},
	few:     2, usual: 4, list: 8, many: 16, huge: 32,
	subscribers: 3, crowd: 10, changes: 2, pace: 50,
	entries: 100, kills: 1, starts: 1,
}

func TestEveryRowIsMeasured(t *testing.T) {
	directory := t.TempDir()
	kinds, err := build(t.Context(), "..", directory, "")
	if err != nil {
		t.Fatal(err)
	}
	everyRow(t, table(tiny), directory, kinds...)
}

func TestOnlyTheDefaultTableGoesIntoTheDocuments(t *testing.T) {
	longer, oftener := published, published
	longer.time++
	oftener.rounds++
	tests := map[string]struct {
		scale         scale
		rows, backend string
		noPeer        error
		printed       bool
	}{
		"the default table":       {scale: published},
		"some of the rows":        {scale: published, rows: "^write", printed: true},
		"another backend":         {scale: published, backend: "bolt", printed: true},
		"a longer measurement":    {scale: longer, printed: true},
		"more rounds":             {scale: oftener, printed: true},
		"no etcd to compare with": {scale: published, noPeer: exec.ErrNotFound, printed: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if reason := onlyPrinted(test.scale, test.rows, test.backend, test.noPeer); (reason != "") != test.printed {
				t.Errorf("onlyPrinted = %q, want a reason: %v", reason, test.printed)
			}
		})
	}
}

func TestThePeerIsMeasured(t *testing.T) {
	path, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip(err)
	}
	everyRow(t, table(tiny)[:4], t.TempDir(), servers.Etcd{Path: path})
}

// everyRow measures all rows of a table, and fails unless the first kind has a result for
// each row.
func everyRow(t *testing.T, table []stage, directory string, kinds ...servers.Kind) {
	t.Helper()
	r := &runner{scale: tiny, kinds: kinds, only: regexp.MustCompile(""), directory: directory, progress: t.Output()}
	results, err := r.run(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, s := range table {
		rows += len(s.rows)
	}
	if len(results) != rows {
		t.Errorf("rows measured = %d, want %d", len(results), rows)
	}
	for _, result := range results {
		if len(result.samples[kinds[0].Name()]) == 0 {
			t.Errorf("%s: no sample was measured", result.row.name)
		}
	}
}

// fakeStream is a stream of these events.
type fakeStream []servers.Event

func (s *fakeStream) Close() {}

func (s *fakeStream) Next() (servers.Event, error) {
	if len(*s) == 0 {
		return servers.Event{}, io.EOF
	}
	first := (*s)[0]
	*s = (*s)[1:]
	return first, nil
}

func TestAGapInAStreamIsAnError(t *testing.T) {
	tests := map[string]struct {
		events fakeStream
		seen   int
		gap    bool
	}{
		"consecutive events":                     {events: fakeStream{{Revision: 5}, {Revision: 6}, {Revision: 7}}, seen: 3},
		"a gap between events":                   {events: fakeStream{{Revision: 5}, {Revision: 7}}, seen: 1, gap: true},
		"an event twice":                         {events: fakeStream{{Revision: 5}, {Revision: 5}}, seen: 1, gap: true},
		"a snapshot covers the events before it": {events: fakeStream{{Revision: 5}, {Revision: 9, Snapshot: true}, {Revision: 10}}, seen: 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			seen := 0
			err := follow(&test.events, func(servers.Event) { seen++ })
			if gap := !errors.Is(err, io.EOF); seen != test.seen || gap != test.gap {
				t.Errorf("events seen = %d, then %v, want %d and a gap: %v", seen, err, test.seen, test.gap)
			}
		})
	}
}
