package main

import (
	"os"
	"testing"
	"time"
)

func samples(values ...float64) (all []sample) {
	for _, v := range values {
		all = append(all, sample{value: v})
	}
	return all
}

func TestResultsAreFormatted(t *testing.T) {
	tests := map[string]struct {
		result            result
		cell, short, peer string
	}{
		"a rate is a median, and high is good": {
			result: result{row: row{unit: perSecond}, samples: map[string][]sample{"nodesmetadata": samples(300, 100, 123_456), "etcd": samples(150)}},
			cell:   "300/s", short: "300/s", peer: "2.00",
		},
		"a duration is a median with the worst, and low is good": {
			result: result{row: row{unit: seconds}, samples: map[string][]sample{"nodesmetadata": samples(0.5, 0.1, 2), "etcd": samples(1)}},
			cell:   "500 ms (worst 2.00 s)", short: "500 ms", peer: "2.00",
		},
		"the median of an even number is the worse of the middle two": {
			result: result{row: row{unit: perSecond}, samples: map[string][]sample{"nodesmetadata": samples(1, 2, 3, 4)}},
			cell:   "2.00/s", short: "2.00/s",
		},
		"percentiles are added if there are any": {
			result: result{row: row{unit: perSecond}, samples: map[string][]sample{"nodesmetadata": {{value: 12_345, p50: time.Millisecond, p99: 1500 * time.Microsecond}}}},
			cell:   "12 300/s (1.00 ms, 1.50 ms)", short: "12 300/s",
		},
		"a row without samples is empty": {result: result{row: row{unit: megabytes}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.result.cell("nodesmetadata"); got != test.cell {
				t.Errorf("cell = %q, want %q", got, test.cell)
			}
			if got := test.result.short("nodesmetadata"); got != test.short {
				t.Errorf("short = %q, want %q", got, test.short)
			}
			if got := test.result.ratio("etcd"); got != test.peer {
				t.Errorf("ratio = %q, want %q", got, test.peer)
			}
		})
	}
}

func TestATableIsWrittenBetweenItsMarks(t *testing.T) {
	results := []result{{row: row{name: "write", unit: perSecond}, samples: map[string][]sample{"nodesmetadata": samples(20), "bare": samples(80)}}}
	c := columns{{"nodesmetadata", "nodesmetadata"}, {"etcd", "etcd 3"}, {"bare", "bare"}}
	got, err := between("a\n"+begin+"\nold\n"+end+"\nb\n", c.table(results, result.short))
	want := "a\n" + begin + `

| | nodesmetadata | bare | × bare |
| --- | --- | --- | --- |
| write | 20.0/s | 80.0/s | 0.25 |

` + end + "\nb\n"
	if err != nil || got != want {
		t.Errorf("between = %v:\n%s\nwant\n%s", err, got, want)
	}
	for _, path := range []string{"../README.md", "../docs/performance.md"} {
		document, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := between(string(document), "text"); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, document := range []string{"nothing", end + begin} {
		if _, err := between(document, "text"); err == nil {
			t.Errorf("between without marks in %q = nil, want an error", document)
		}
	}
}
