package harness_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestParserFollowsTheSSEStandard(t *testing.T) {
	type event = harness.Event
	tests := map[string]struct {
		stream string
		want   []event
		lastID string
		retry  int
	}{
		"an event has a type, an id and data": {
			stream: "event: added\nid: 7\ndata: x\n\n",
			want:   []event{{ID: "7", Type: "added", Data: "x"}}, lastID: "7",
		},
		"lines of data are joined": {
			stream: "data: a\ndata:\ndata: b\n\n",
			want:   []event{{Type: "message", Data: "a\n\nb"}},
		},
		"only one space is dropped": {
			stream: "data:  a \ndata:b\n\n",
			want:   []event{{Type: "message", Data: " a \nb"}},
		},
		"lines end with CR, LF or both": {
			stream: "data: a\r\r\ndata: b\r\n\r\ndata: c\n\r",
			want:   []event{{Type: "message", Data: "a"}, {Type: "message", Data: "b"}, {Type: "message", Data: "c"}},
		},
		"a byte order mark at the beginning is dropped": {
			stream: "\uFEFFdata: a\n\n",
			want:   []event{{Type: "message", Data: "a"}},
		},
		"an id holds until there is another": {
			stream: "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
			want:   []event{{ID: "1", Type: "message", Data: "a"}, {ID: "1", Type: "message", Data: "b"}, {Type: "message", Data: "c"}},
		},
		"an id that contains NUL is ignored": {
			stream: "id: 1\x002\ndata: a\n\n",
			want:   []event{{Type: "message", Data: "a"}},
		},
		"a block without data is no event, but its id counts": {
			stream: "event: added\nid: 3\n\ndata: a\n\n",
			want:   []event{{ID: "3", Type: "message", Data: "a"}}, lastID: "3",
		},
		"an empty data line makes an event": {
			stream: "data\n\n",
			want:   []event{{Type: "message"}},
		},
		"comments are shown": {
			stream: ": no leader\n\n:\n\ndata: a\n: not here\n\n",
			want:   []event{{Comment: "no leader", IsComment: true}, {IsComment: true}, {Type: "message", Data: "a"}},
		},
		"an unfinished event is dropped with its id": {
			stream: "id: 1\ndata: a\n\nid: 2\ndata: b\n",
			want:   []event{{ID: "1", Type: "message", Data: "a"}}, lastID: "1",
		},
		"a reconnection time consists of digits": {
			stream: "retry: 1000\nretry: 5s\nretry: -1\ndata: a\n\n",
			want:   []event{{Type: "message", Data: "a"}}, retry: 1000,
		},
		"unknown fields are skipped": {
			stream: "dat: a\nDATA: b\ndata: c\n\n",
			want:   []event{{Type: "message", Data: "c"}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// Reading one byte at a time exposes a parser that waits for more than it needs.
			parser := harness.NewParser(iotest.OneByteReader(strings.NewReader(test.stream)), "")
			var got []event
			for {
				e, err := parser.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("events = %+v\nwant     %+v", got, test.want)
			}
			if test.lastID != "" && parser.LastID() != test.lastID {
				t.Errorf("LastID = %q, want %q", parser.LastID(), test.lastID)
			}
			if test.retry != parser.Retry {
				t.Errorf("Retry = %d, want %d", parser.Retry, test.retry)
			}
		})
	}
}
