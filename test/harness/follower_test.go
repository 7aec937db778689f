package harness_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func part(id, revision, part, parts int) string {
	line := ""
	if id > 0 {
		line = fmt.Sprintf("id: %d\n", id)
	}
	return fmt.Sprintf("event: snapshot\n%sdata: {\"revision\":%d,\"part\":%d,\"parts\":%d,\"nodes\":{\"p%d\":{\"id\":\"p%d\",\"revision\":1}}}\n\n",
		line, revision, part, parts, part, part)
}

func change(id, revision int, kind, node, more string) string {
	return fmt.Sprintf("event: %s\nid: %d\ndata: {\"revision\":%d,\"type\":%q,\"node\":{\"id\":%q,\"revision\":%d}%s,\"reason\":\"request\"}\n\n",
		kind, id, revision, kind, node, revision, more)
}

// removal returns the event for the removal of a node that was last changed at revision known.
func removal(id int, node string, known int) string {
	return fmt.Sprintf("event: removed\nid: %d\ndata: {\"revision\":%d,\"type\":\"removed\",\"node\":{\"id\":%q,\"revision\":%d},\"reason\":\"request\"}\n\n",
		id, id, node, known)
}

func TestAFollowerRefusesEventsThatNoStreamMaySend(t *testing.T) {
	const previous = `,"previous":{"id":"p1","revision":1}`
	good := part(5, 5, 1, 1) + change(6, 6, "added", "a", "") + ": keep-alive\n\n" +
		change(7, 7, "updated", "p1", previous) + removal(8, "a", 6)
	tests := map[string]struct {
		stream   string
		filtered bool
		fault    string
	}{
		"a correct stream":                               {stream: good},
		"a snapshot in parts":                            {stream: part(0, 5, 1, 2) + part(5, 5, 2, 2) + change(6, 6, "added", "a", "")},
		"a snapshot that is cut off":                     {stream: part(0, 5, 1, 2)},
		"a revision is missing":                          {stream: good + change(10, 10, "added", "b", ""), fault: "revision 10 follows on 8"},
		"a revision is missing in a filtered stream":     {stream: good + change(10, 10, "added", "b", ""), filtered: true},
		"a revision comes twice in a filtered stream":    {stream: good + change(8, 8, "added", "b", ""), filtered: true, fault: "revision 8 follows on 8"},
		"a node that does not match any more is removed": {stream: good + removal(10, "p1", 7), filtered: true},
		"a node that did not match is updated":           {stream: good + change(10, 10, "updated", "b", previous), filtered: true, fault: "the node was there: false"},
		"a snapshot comes later":                         {stream: good + part(12, 12, 1, 1) + change(13, 13, "added", "b", "")},
		"a snapshot goes back in time":                   {stream: good + part(7, 7, 1, 1), fault: "goes back to revision 7 from 8"},
		"a revision comes twice":                         {stream: good + change(8, 8, "added", "b", ""), fault: "revision 8 follows on 8"},
		"the id differs from the revision":               {stream: good + change(8, 9, "added", "b", ""), fault: "the id is not the revision"},
		"a change before the snapshot":                   {stream: change(6, 6, "added", "a", ""), fault: "before there was a snapshot"},
		"a change amid a snapshot":                       {stream: part(0, 5, 1, 2) + change(6, 6, "added", "a", ""), fault: "in the middle of a snapshot"},
		"a part is missing":                              {stream: part(0, 5, 1, 3) + part(5, 5, 3, 3), fault: "part 3 of 3 follows on 1"},
		"a snapshot ends without an id":                  {stream: part(0, 5, 1, 1), fault: "is not the revision"},
		"a known node is added":                          {stream: good + change(9, 9, "added", "p1", ""), fault: "added, and the node was there"},
		"an unknown node is removed":                     {stream: good + removal(9, "a", 6), fault: "removed, and the node was there: false"},
		"the previous node is not the latest":            {stream: good + change(9, 9, "updated", "p1", previous), fault: "previous is {ID:p1"},
		"the removed node is not the latest":             {stream: good + removal(9, "p1", 1), fault: "removed is {ID:p1"},
		"an update without the previous node":            {stream: good + change(9, 9, "updated", "p1", ""), fault: "previous is"},
		"the data is no JSON":                            {stream: good + "event: added\nid: 9\ndata: {\n\n", fault: "JSON"},
		"the data names another type than the event":     {stream: good + strings.Replace(change(9, 9, "added", "b", ""), "event: added", "event: updated", 1), fault: "not of the type"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			sent := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if r.Header.Get("Last-Event-ID") == "" {
					_, _ = io.WriteString(w, test.stream)
				}
				select {
				case sent <- struct{}{}: // the first stream ends here
				case <-r.Context().Done():
				}
			}))
			defer server.Close()
			client := harness.NewClient(t, strings.TrimPrefix(server.URL, "http://"))
			follow := harness.Follow
			if test.filtered {
				follow = func(t testing.TB, clients ...*harness.Client) *harness.Follower {
					return harness.FollowFiltered(t, harness.Filter{Pool: "a"}, clients...)
				}
			}
			follower := follow(t, client)
			<-sent // by the first stream
			if test.fault == "" {
				<-sent // the follower came back, and so has read all of the first stream
				follower.Stop()
				if err := follower.Err(); err != nil {
					t.Errorf("fault of the follower = %v, want none", err)
				}
				return
			}
			harness.Eventually(t, "the follower has a fault", func() error {
				if err := follower.Err(); err == nil || !strings.Contains(err.Error(), test.fault) {
					return fmt.Errorf("fault = %v, want %s", err, test.fault)
				}
				return nil
			})
		})
	}
}
