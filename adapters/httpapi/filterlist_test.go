package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// A list that is requested after a write was answered has that write, and nothing beyond the
// revision in its header, whatever other clients read and write.
func TestAFilteredListIsAsFreshAsTheLastWrite(t *testing.T) {
	s := start(t)
	s.undescribed() // the checks would slow the clients down
	const pools, readers, writes = 3, 6, 80
	// made holds the revisions of the writes in each pool. Each write adds a node.
	var made [pools][writes]atomic.Uint64
	type observation struct {
		pool, nodes int
		revision    uint64
	}
	var mu sync.Mutex
	var observations []observation
	var writing, reading sync.WaitGroup
	over := make(chan struct{})
	for p := range pools {
		writing.Go(func() {
			for i := range writes {
				got := s.do(t, "PUT", fmt.Sprintf("/nodes/n%d-%03d", p, i), fmt.Sprintf(`{"address":"h%d:%d","pool":"p%d"}`, p, i+1, p))
				revision, err := strconv.ParseUint(got.header.Get("Nodesmetadata-Revision"), 10, 64)
				if err != nil {
					t.Errorf("answer = %d %s: %v", got.status, got.body, err)
					return
				}
				made[p][i].Store(revision)
			}
		})
	}
	for r := range readers {
		reading.Go(func() {
			for round := r; ; round++ {
				last := false
				select {
				case <-over:
					last = true
				default:
				}
				p, atLeast := round%pools, 0
				for atLeast < writes && made[p][atLeast].Load() > 0 {
					atLeast++
				}
				got := s.do(t, "GET", fmt.Sprintf("/nodes?pool=p%d", p), "")
				revision, err := strconv.ParseUint(got.header.Get("Nodesmetadata-Revision"), 10, 64)
				if err != nil || got.header.Get("ETag") != fmt.Sprintf(`"%d"`, revision) {
					t.Errorf("ETag = %s at revision %d: %v", got.header.Get("ETag"), revision, err)
				}
				var nodes map[string]struct{ Pool string }
				if err := json.Unmarshal([]byte(got.body), &nodes); err != nil {
					t.Error(err)
				}
				for id, node := range nodes {
					if node.Pool != fmt.Sprintf("p%d", p) {
						t.Errorf("node %s is in pool %q, want the requested one", id, node.Pool)
					}
				}
				if len(nodes) < atLeast {
					t.Errorf("nodes in the list = %d, want at least the %d that were answered before", len(nodes), atLeast)
				}
				mu.Lock()
				observations = append(observations, observation{p, len(nodes), revision})
				mu.Unlock()
				if last {
					return
				}
			}
		})
	}
	writing.Wait()
	close(over)
	reading.Wait()
	for _, o := range observations {
		want := 0
		for want < writes && made[o.pool][want].Load() <= o.revision {
			want++
		}
		if o.nodes != want {
			t.Errorf("at revision %d: nodes in the list of pool %d = %d, want %d", o.revision, o.pool, o.nodes, want)
		}
	}
}

// get sends a request without a socket, which is cheaper for large lists.
func (s *service) get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		t.Errorf("%s: answer = %d %.200s, want 200", path, w.Code, w.Body)
	}
	return w
}

func TestTheNumberOfCachedFilteredListsIsLimited(t *testing.T) {
	s := start(t)
	const pools = 3 * httpapi.KeptLists
	for i := range pools {
		pool := fmt.Sprintf("p%d", i)
		s.register(t, domain.NodeSpec{ID: pool, Address: fmt.Sprintf("h:%d", i+1), Pool: &pool})
	}
	for range 2 {
		for i := range pools {
			pool := fmt.Sprintf("p%d", i)
			if got := s.get(t, "/nodes?pool="+pool).Body.String(); !strings.HasPrefix(got, `{"`+pool+`":{"id":"`+pool+`",`) || strings.Count(got, `"id"`) != 1 {
				t.Errorf("list of pool %s = %s, want its one node", pool, got)
			}
			if lists, _ := s.Kept(); lists > httpapi.KeptLists {
				t.Fatalf("cached lists = %d, want at most %d", lists, httpapi.KeptLists)
			}
		}
	}
	if lists, _ := s.Kept(); lists < httpapi.KeptLists/2 {
		t.Errorf("cached lists = %d, want at least %d", lists, httpapi.KeptLists/2)
	}
}

// fillWithLarge registers n nodes of about 9 KB each in JSON.
func (s *service) fillWithLarge(t *testing.T, n int) {
	t.Helper()
	labels := map[string]string{}
	for i := range domain.MaxLabels {
		labels[fmt.Sprint(i)] = strings.Repeat("v", domain.MaxLabelValueBytes)
	}
	for i := range n {
		s.register(t, domain.NodeSpec{ID: fmt.Sprintf("node%06d", i), Address: fmt.Sprintf("h%d:1", i), Zone: "z", Labels: labels})
	}
}

func TestTheSizeOfCachedFilteredListsIsLimited(t *testing.T) {
	s := start(t)
	const kept = 1 << 20
	s.Keep(kept)
	s.undescribed()        // the check of a megabyte takes seconds, and other tests check smaller lists
	s.fillWithLarge(t, 64) // the list takes more than half of the limit
	whole := s.get(t, "/nodes").Body.String()
	if len(whole) < kept/2 || len(whole) > kept {
		t.Fatalf("length of the list = %d bytes, want %d to %d for this test", len(whole), kept/2, kept)
	}
	for _, query := range []string{"zone=z", "pool=default", "state=active", "zone=z", "zone=z&pool=default", "pool=none"} {
		want := whole
		if query == "pool=none" {
			want = "{}"
		}
		if got := s.get(t, "/nodes?"+query).Body.String(); got != want {
			t.Errorf("%s: the list of %d bytes differs from the wanted one", query, len(got))
		}
		if _, bytes := s.Kept(); bytes > kept {
			t.Errorf("bytes of cached lists = %d, want at most %d", bytes, kept)
		}
	}
	s.fillWithLarge(t, 128) // the list exceeds the limit
	whole = s.get(t, "/nodes").Body.String()
	for _, query := range []string{"zone=z", "zone=z&label=0=" + strings.Repeat("v", domain.MaxLabelValueBytes)} {
		if got := s.get(t, "/nodes?"+query).Body.String(); got != whole || len(whole) <= kept {
			t.Errorf("%s: the list of %d bytes differs from the whole list", query, len(got))
		}
		if lists, bytes := s.Kept(); lists != 1 || bytes != len(whole) {
			t.Errorf("cached lists = %d of %d bytes, want the last one", lists, bytes)
		}
	}
}

// Another request may take long to encode a list; a request that waits for it must not hang.
func TestARequestThatWaitsForAListIsAnsweredInTime(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *httpapi.Config) { c.RequestTimeout = 700 * time.Millisecond })
	s.undescribed()        // the description is not compressed
	s.fillWithLarge(t, 16) // long enough to be compressed
	asked := func(when, query string, want int) {
		t.Helper()
		for _, coding := range []string{"identity", "gzip"} {
			got := s.do(t, http.MethodGet, "/nodes"+query, "", "Accept-Encoding: "+coding)
			if got.status != want || want != http.StatusOK && !strings.Contains(got.body, `"code":"timeout"`) {
				t.Errorf("%s: %q in coding %q = %d %.200q, want %d", when, query, coding, got.status, got.body, want)
			}
		}
	}
	asked("before", "", http.StatusOK)
	done := s.MakeLists()
	asked("meanwhile", "", http.StatusOK) // it is cached
	asked("meanwhile", "?zone=z", http.StatusServiceUnavailable)
	s.fillWithLarge(t, 17)
	asked("after a write", "", http.StatusServiceUnavailable)
	done()
	asked("later", "?zone=z", http.StatusOK)
	asked("later", "", http.StatusOK)
}

func TestFilteredListsAreCorrectDuringEviction(t *testing.T) {
	s := start(t)
	const pools = 2 * httpapi.KeptLists
	add := func(i, round int) {
		pool := fmt.Sprintf("p%d", i)
		s.register(t, domain.NodeSpec{ID: fmt.Sprintf("n%d-%d", i, round), Address: fmt.Sprintf("h%d:%d", i, round+1), Pool: &pool})
	}
	for i := range pools {
		add(i, 0)
	}
	var all sync.WaitGroup
	for r := range 8 {
		all.Go(func() {
			for i := range pools {
				i = (i + r*17) % pools
				got := s.get(t, fmt.Sprintf("/nodes?pool=p%d", i)).Body.String()
				if nodes := strings.Count(got, `"id":`); nodes == 0 || nodes != strings.Count(got, fmt.Sprintf(`"pool":"p%d"`, i)) {
					t.Errorf("list of pool %d = %s, want the nodes of this pool only", i, got)
				}
			}
		})
	}
	all.Go(func() {
		for i := range pools {
			add(i, 1)
		}
	})
	all.Wait()
	if lists, _ := s.Kept(); lists > httpapi.KeptLists {
		t.Errorf("cached lists = %d, want at most %d", lists, httpapi.KeptLists)
	}
	for i := range pools {
		if got := s.get(t, fmt.Sprintf("/nodes?pool=p%d", i)).Body.String(); strings.Count(got, `"id":`) != 2 {
			t.Errorf("list of pool %d = %s, want two nodes", i, got)
		}
	}
}

// Two spellings of one filter share a key; filters that only look alike do not.
func TestFiltersHaveDistinctKeys(t *testing.T) {
	s := start(t)
	pool := "x"
	s.register(t, domain.NodeSpec{ID: "pool", Address: "h:1", Pool: &pool})
	s.register(t, domain.NodeSpec{ID: "zone", Address: "h:2", Zone: "x"})
	s.register(t, domain.NodeSpec{ID: "label", Address: "h:3", Zone: "x", Labels: map[string]string{"a": "b"}})
	s.register(t, domain.NodeSpec{ID: "quoted", Address: "h:4", Zone: `x"k"a"v"b`})
	s.register(t, domain.NodeSpec{ID: "joined", Address: "h:9", Zone: "xkavb"})
	s.register(t, domain.NodeSpec{ID: "both", Address: "h:5", Labels: map[string]string{"a": "b", "c": "d"}})
	s.register(t, domain.NodeSpec{ID: "equals", Address: "h:6", Labels: map[string]string{"a": "b=d"}})
	s.register(t, domain.NodeSpec{ID: "other", Address: "h:7", Labels: map[string]string{"a": "d", "c": "b"}})
	s.register(t, domain.NodeSpec{ID: "empty", Address: "h:8", Labels: map[string]string{"a": ""}})
	tests := []struct {
		query string
		ids   string
	}{
		{"pool=x", "pool"},
		{"zone=x", "label zone"},
		{"zone=x&label=a%3Db", "label"},
		{"label=a%3Db&zone=x", "label"},
		{"zone=" + url.QueryEscape(`x"k"a"v"b`), "quoted"},
		{"zone=xkavb", "joined"},
		{"label=a=b", "both label"},
		{"label=a=b&label=c=d", "both"},
		{"label=c=d&label=a=b", "both"},
		{"label=c=d&label=a=b&label=c=d", "both"},
		{"label=a=d&label=c=b", "other"},
		{"label=a=b%3Dd", "equals"},
		{"label=a=b=d", "equals"},
		{"label=a=", "empty"},
		{"label=a=b&label=a=d", ""},
		{"zone=", "both empty equals other pool"},
		{"state=active", "both empty equals joined label other pool quoted zone"},
		{"pool=default&state=active&zone=x&label=a=b&redirect=false&since=0", "label"},
	}
	for range 2 { // the second list is the cached one
		for _, test := range tests {
			var nodes map[string]struct{}
			if err := json.Unmarshal(s.get(t, "/nodes?"+test.query).Body.Bytes(), &nodes); err != nil {
				t.Fatal(err)
			}
			want := strings.Fields(test.ids)
			for _, id := range want {
				if _, has := nodes[id]; !has {
					t.Errorf("%s: %s is not in the list", test.query, id)
				}
			}
			if len(nodes) != len(want) {
				t.Errorf("%s: got %v, want %v", test.query, nodes, want)
			}
		}
	}
	if lists, _ := s.Kept(); lists != len(tests)-4 { // four are other spellings
		t.Errorf("cached lists = %d, want %d", lists, len(tests)-4)
	}
}

func TestAFilteredListHasTheTagOfTheRegistry(t *testing.T) {
	s := start(t)
	seed(t, s)
	for _, query := range []string{"pool=default", "pool=none", "state=active&zone="} {
		got := s.do(t, "GET", "/nodes?"+query, "")
		if got.status != 200 || got.header.Get("ETag") != `"3"` || got.header.Get("Nodesmetadata-Revision") != "3" {
			t.Errorf("%s: answer = %d %v, want 200 at revision 3", query, got.status, got.header)
		}
		if got := s.do(t, "GET", "/nodes?"+query, "", `If-None-Match: "3"`); got.status != 304 || got.body != "" || got.header.Get("ETag") != `"3"` {
			t.Errorf("%s with If-None-Match: answer = %d %v, want 304", query, got.status, got.header)
		}
		head := s.do(t, "HEAD", "/nodes?"+query, "")
		if head.status != 200 || head.header.Get("Content-Length") != strconv.Itoa(len(got.body)) {
			t.Errorf("HEAD %s: answer = %d %v, want 200 with the length of the list", query, head.status, head.header)
		}
	}
	// The ETag is that of the registry, so it also changes with nodes that the filter
	// leaves out.
	s.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1","pool":"other"}`)
	if got := s.do(t, "GET", "/nodes?pool=default", "", `If-None-Match: "3"`); got.status != 200 || got.body != seededList || got.header.Get("ETag") != `"4"` {
		t.Errorf("answer = %d %v %s, want 200 at revision 4 with the same list", got.status, got.header, got.body)
	}
}
