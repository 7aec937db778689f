package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// seed fills the registry that the tables below begin with: a at revision 1, and b, which was
// changed, at revision 3.
func seed(t *testing.T, s *service) {
	t.Helper()
	weight := 7
	s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1"})
	s.register(t, domain.NodeSpec{ID: "b", Address: "10.0.0.2:1"})
	s.register(t, domain.NodeSpec{ID: "b", Address: "10.0.0.2:1", Weight: &weight})
}

const (
	nodeA = `{"id":"a","address":"10.0.0.1:1","pool":"default","weight":100,"state":"active","slot":0,"createdRevision":1,"revision":1}`
	nodeB = `{"id":"b","address":"10.0.0.2:1","pool":"default","weight":7,"state":"active","slot":1,"createdRevision":2,"revision":3}`
	nodeC = `{"id":"c","address":"10.0.0.3:1","pool":"default","weight":100,"state":"active","slot":2,"createdRevision":4,"revision":4}`
)

func TestNodeCallsThatSucceed(t *testing.T) {
	tests := map[string]struct {
		method, path, body string
		header             []string

		status   int
		want     string
		etag     string
		revision string
		location string
	}{
		"the list is an object sorted by id": {
			method: "GET", path: "/nodes", status: 200, want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list is not sent to a client that has it": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: "3"`}, status: 304, etag: `"3"`, revision: "3"},
		"the list is not sent to a client that names it among others": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: "1", W/"3"`}, status: 304, etag: `"3"`, revision: "3"},
		"the list is not sent with If-None-Match: *": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: *`}, status: 304, etag: `"3"`, revision: "3"},
		"the list is sent to a client that has an older one": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: "2"`}, status: 200,
			want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list is sent if If-Match names its revision": {
			method: "GET", path: "/nodes", header: []string{`If-Match: "2", "3"`}, status: 200,
			want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list is sent with If-Match: *": {
			method: "GET", path: "/nodes", header: []string{`If-Match: *`}, status: 200,
			want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list that matches both conditions is not sent": {
			method: "GET", path: "/nodes", header: []string{`If-Match: "3"`, `If-None-Match: "3"`}, status: 304, etag: `"3"`, revision: "3"},
		"a HEAD of the list has only its header": {
			method: "HEAD", path: "/nodes", status: 200, etag: `"3"`, revision: "3"},
		"a node is read with its own revision as its tag": {
			method: "GET", path: "/nodes/a", status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"a node is not sent to a client that has it": {
			method: "GET", path: "/nodes/a", header: []string{`If-None-Match: W/"1"`}, status: 304, etag: `"1"`, revision: "3"},
		"a node is sent if If-Match names its revision": {
			method: "GET", path: "/nodes/a", header: []string{`If-Match: W/"9","1"`}, status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"an id in a path may be percent-encoded": {
			method: "GET", path: "/nodes/%61", status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"a HEAD of a node has only its header": {
			method: "HEAD", path: "/nodes/a", status: 200, etag: `"1"`, revision: "3"},
		"a body may be declared as not encoded": {
			method: "PUT", path: "/nodes/a", body: nodeA, header: []string{"Content-Encoding: ", "Content-Encoding: Identity"},
			status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"a new node is created": {
			method: "PUT", path: "/nodes", body: `{"id":"c","address":"10.0.0.3:1"}`,
			status: 201, want: nodeC, etag: `"4"`, revision: "4", location: "/nodes/c"},
		"a new node is created under its path": {
			method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.3:1"}`,
			status: 201, want: nodeC, etag: `"4"`, revision: "4", location: "/nodes/c"},
		"an id may have a colon, encoded or not": {
			method: "PUT", path: "/nodes/c%3A1", body: `{"id":"c:1","address":"10.0.0.3:1"}`,
			status: 201, want: strings.Replace(nodeC, `"c"`, `"c:1"`, 1), etag: `"4"`, revision: "4", location: "/nodes/c:1"},
		"a node has all its attributes": {
			method: "PUT", path: "/nodes/c",
			body:   `{"address":"[2001:db8::1]:11211","pool":"p","weight":0,"zone":"é<&>\"","labels":{"z":"","a":"\\"},"state":"draining"}`,
			status: 201, etag: `"4"`, revision: "4", location: "/nodes/c",
			want: `{"id":"c","address":"[2001:db8::1]:11211","pool":"p","weight":0,"zone":"é<&>\"","labels":{"a":"\\","z":""},"state":"draining","slot":0,"createdRevision":4,"revision":4}`},
		"a node is replaced": {
			method: "PUT", path: "/nodes/b", body: `{"address":"10.0.0.2:1","weight":8}`, status: 200,
			want: `{"id":"b","address":"10.0.0.2:1","pool":"default","weight":8,"state":"active","slot":1,"createdRevision":2,"revision":4}`,
			etag: `"4"`, revision: "4"},
		"a node that is sent back unchanged changes nothing": {
			method: "PUT", path: "/nodes", body: nodeB, status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"the server's own fields are ignored": {
			method: "PUT", path: "/nodes/b", body: `{"address":"10.0.0.2:1","weight":7,"slot":99,"revision":-1.5,"createdRevision":1e9}`,
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a write with If-Match of the revision is made": {
			method: "PUT", path: "/nodes/b", body: `{"address":"10.0.0.2:1","weight":7}`, header: []string{`If-Match: "3"`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a write of a known node with If-Match: * is made": {
			method: "PUT", path: "/nodes", body: nodeB, header: []string{`If-Match: *`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a write of a new node with If-None-Match: * is made": {
			method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.3:1"}`, header: []string{`If-None-Match: *`},
			status: 201, want: nodeC, etag: `"4"`, revision: "4", location: "/nodes/c"},
		"JSON may be declared with parameters": {
			method: "PUT", path: "/nodes", body: nodeB, header: []string{`Content-Type: Application/JSON; charset=utf-8`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a content type may end in +json": {
			method: "PUT", path: "/nodes", body: nodeB, header: []string{`Content-Type: application/vnd.node+json`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a node is removed": {
			method: "DELETE", path: "/nodes/a", status: 200, want: nodeA, revision: "4"},
		"a removal with If-Match of the revision is made": {
			method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "3"`}, status: 200, want: nodeB, revision: "4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			got := s.do(t, test.method, test.path, test.body, test.header...)
			if got.status != test.status || got.body != test.want {
				t.Errorf("answer = %d %s\nwant %d %s", got.status, got.body, test.status, test.want)
			}
			for header, want := range map[string]string{
				"ETag": test.etag, "Nodesmetadata-Revision": test.revision, "Location": test.location,
			} {
				if value := got.header.Get(header); value != want {
					t.Errorf("%s = %q, want %q", header, value, want)
				}
			}
			if got.status != http.StatusNotModified && got.header.Get("Content-Type") != "application/json" {
				t.Errorf("content type = %q, want application/json", got.header.Get("Content-Type"))
			}
		})
	}
}

func TestNodeCallsThatAreRefused(t *testing.T) {
	const good = `{"address":"10.0.0.3:1"}`
	tests := map[string]struct {
		method, path, body string
		header             []string

		status   int
		code     string
		mentions []string
		revision string
		node     string
	}{
		"a read of an unknown node": {method: "GET", path: "/nodes/x", status: 404, code: "node_not_found", mentions: []string{`"x"`}, revision: "3"},
		"a read of an unknown node with If-Match: *": {method: "GET", path: "/nodes/x", header: []string{`If-Match: *`}, status: 404,
			code: "node_not_found", revision: "3"},
		"a read at another revision": {method: "GET", path: "/nodes/b", header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", mentions: []string{`"3"`, `"2"`}, revision: "3", node: nodeB},
		"a read with a weak tag": {method: "GET", path: "/nodes/b", header: []string{`If-Match: W/"3"`}, status: 412,
			code: "precondition_failed", mentions: []string{`W/`}, revision: "3", node: nodeB},
		"a read at another revision by a client that has the node": {method: "GET", path: "/nodes/b",
			header: []string{`If-Match: "2"`, `If-None-Match: "3"`}, status: 412, code: "precondition_failed", revision: "3", node: nodeB},
		"a list at another revision": {method: "GET", path: "/nodes", header: []string{`If-Match: "1", "2"`}, status: 412,
			code: "precondition_failed", mentions: []string{`"3"`, `"2"`}, revision: "3"},
		"a list that has not changed, at another revision": {method: "GET", path: "/nodes?since=3&wait=1ms", header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", revision: "3"},
		"a list with an empty If-Match": {method: "GET", path: "/nodes", header: []string{`If-Match: `}, status: 412,
			code: "precondition_failed", revision: "3"},
		"a removal of an unknown node": {method: "DELETE", path: "/nodes/x", status: 404, code: "node_not_found",
			mentions: []string{`"x"`}, revision: "3"},
		"an address in use": {method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.1:1"}`, status: 409, code: "address_in_use",
			mentions: []string{"10.0.0.1:1", `"a"`}, revision: "3"},
		"a write at another revision": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", mentions: []string{"3", "2"}, revision: "3", node: nodeB},
		"a removal at another revision": {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", revision: "3", node: nodeB},
		"a write of an unknown node at a revision": {method: "PUT", path: "/nodes/c", body: good, header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", revision: "3"},
		"a write of an unknown node with If-Match: *": {method: "PUT", path: "/nodes/c", body: good, header: []string{`If-Match: *`}, status: 412,
			code: "precondition_failed", revision: "3"},
		"a write of a known node with If-None-Match: *": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-None-Match: *`}, status: 412,
			code: "precondition_failed", revision: "3", node: nodeB},

		"a weak tag":                {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: W/"3"`}, mentions: []string{"If-Match"}},
		"a list of tags":            {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "3", "4"`}, mentions: []string{"If-Match"}},
		"two tags":                  {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "3"`, `If-Match: "3"`}, mentions: []string{"If-Match"}},
		"a tag without quotes":      {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: 3`}, mentions: []string{"If-Match"}},
		"an empty tag":              {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: ""`}, mentions: []string{"If-Match"}},
		"an empty header":           {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: `}, mentions: []string{"If-Match"}},
		"one quote":                 {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "`}, mentions: []string{"If-Match"}},
		"a tag with a leading zero": {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "03"`}, mentions: []string{"If-Match"}},
		"a negative tag":            {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "-3"`}, mentions: []string{"If-Match"}},
		"a tag too large":           {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "18446744073709551616"`}, mentions: []string{"If-Match"}},
		"both conditions": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "3"`, `If-None-Match: *`},
			mentions: []string{"If-Match", "If-None-Match"}},
		"a tag where only * makes sense": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-None-Match: "3"`},
			mentions: []string{"If-None-Match"}},
		"a removal with If-None-Match: *": {method: "DELETE", path: "/nodes/b", header: []string{`If-None-Match: *`},
			mentions: []string{"If-None-Match"}},

		"no body":                      {method: "PUT", path: "/nodes", code: "invalid_json", mentions: []string{"empty"}},
		"a body of white space":        {method: "PUT", path: "/nodes", body: " \n", code: "invalid_json", mentions: []string{"empty"}},
		"a body that is not JSON":      {method: "PUT", path: "/nodes", body: `id=a`, code: "invalid_json", mentions: []string{"invalid character"}},
		"a truncated object":           {method: "PUT", path: "/nodes", body: `{"id":"c"`, code: "invalid_json", mentions: []string{"EOF"}},
		"an array":                     {method: "PUT", path: "/nodes", body: `[]`, code: "invalid_json", mentions: []string{"an object"}},
		"null":                         {method: "PUT", path: "/nodes", body: `null`, code: "invalid_json", mentions: []string{"null"}},
		"data after the object":        {method: "PUT", path: "/nodes", body: `{"id":"c"} {}`, code: "invalid_json", mentions: []string{"after top-level value"}},
		"a byte order mark":            {method: "PUT", path: "/nodes", body: "\ufeff{}", code: "invalid_json", mentions: []string{"invalid character"}},
		"an unknown field":             {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","colour":1}`, code: "invalid_json", mentions: []string{`"colour"`, "not known"}},
		"a field in another case":      {method: "PUT", path: "/nodes/c", body: `{"Address":"h:1"}`, code: "invalid_json", mentions: []string{`"Address"`}},
		"a field twice":                {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","address":"h:2"}`, code: "invalid_json", mentions: []string{`"address"`, "duplicate"}},
		"a label twice":                {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":{"a":"","a":""}}`, code: "invalid_json", mentions: []string{`"labels.a"`, "duplicate"}},
		"a number for a string":        {method: "PUT", path: "/nodes/c", body: `{"address":1}`, code: "invalid_json", mentions: []string{`"address" must be a string`}},
		"a string for a number":        {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","weight":"1"}`, code: "invalid_json", mentions: []string{`"weight" must be an integer`}},
		"a fractional weight":          {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","weight":1.5}`, code: "invalid_json", mentions: []string{`"weight" must be an integer: 1.5`}},
		"a number over 64 bits":        {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","weight":99999999999999999999}`, code: "invalid_json", mentions: []string{`"weight"`}},
		"a label that is not a string": {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":{"a":1}}`, code: "invalid_json", mentions: []string{`"labels.a" must be a string`}},
		"labels in a list":             {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":[]}`, code: "invalid_json", mentions: []string{`"labels" must be an object`}},
		"a slot that is not a number":  {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","slot":"1"}`, code: "invalid_json", mentions: []string{`"slot" must be a number`}},
		"null for a value":             {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","pool":null}`, code: "invalid_json", mentions: []string{`"pool" must not be null`}},
		"null for a label":             {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":{"a":null}}`, code: "invalid_json", mentions: []string{`"labels.a" must not be null`}},
		"null for an ignored field":    {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","slot":null}`, code: "invalid_json", mentions: []string{`"slot" must not be null`}},
		"a string that is not UTF-8":   {method: "PUT", path: "/nodes/c", body: "{\"address\":\"h:1\",\"zone\":\"\xff\"}", code: "invalid_json", mentions: []string{`"zone"`, "UTF-8"}},
		"half a surrogate pair":        {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","zone":"\ud800"}`, code: "invalid_json", mentions: []string{`"zone"`, "surrogate"}},

		"no id":                     {method: "PUT", path: "/nodes", body: `{"address":"h:1"}`, mentions: []string{"id"}},
		"an empty pool":             {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","pool":""}`, mentions: []string{"pool"}},
		"an empty state":            {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","state":""}`, mentions: []string{"state"}},
		"several faults at once":    {method: "PUT", path: "/nodes/c", body: `{"address":"h","weight":-1,"state":"on"}`, mentions: []string{"address", "weight", "state", "; "}},
		"another id in the body":    {method: "PUT", path: "/nodes/c", body: `{"id":"d","address":"h:1"}`, mentions: []string{`"c"`, `"d"`}},
		"an empty id in the body":   {method: "PUT", path: "/nodes/c", body: `{"id":"","address":"h:1"}`, mentions: []string{`"c"`, `""`}},
		"a reserved id in the body": {method: "PUT", path: "/nodes", body: `{"id":"sse","address":"h:1"}`, mentions: []string{`"sse"`}},
		"a reserved id in the path": {method: "GET", path: "/nodes/%62atch", mentions: []string{`"batch"`}},
		"a reserved id to write":    {method: "PUT", path: "/nodes/%62atch", body: good, mentions: []string{`"batch"`}},
		"the path of batches":       {method: "GET", path: "/nodes/batch", status: 405, code: "method_not_allowed", mentions: []string{"POST"}},
		"a reserved id, encoded":    {method: "GET", path: "/nodes/%73se", mentions: []string{`"sse"`}},
		"a slash in an id":          {method: "GET", path: "/nodes/a%2Fb", mentions: []string{`"a/b"`}},
		"a percent sign in an id":   {method: "GET", path: "/nodes/a%2561", mentions: []string{`"a%61"`}},
		"an id that is not UTF-8":   {method: "DELETE", path: "/nodes/%ff", mentions: []string{`\xff`}},
		"a line break in an id":     {method: "DELETE", path: "/nodes/a%0Ab", mentions: []string{`a\nb`}},
		"an id too long":            {method: "GET", path: "/nodes/" + strings.Repeat("a", 129), mentions: []string{"129"}},

		"an unknown parameter":       {method: "GET", path: "/nodes?revision=3", mentions: []string{`"revision"`}},
		"several unknown parameters": {method: "GET", path: "/nodes/a?pool=x&zone=y", mentions: []string{`"pool"`, `"zone"`}},
		"a parameter on a write":     {method: "PUT", path: "/nodes?consistency=stale", body: good, mentions: []string{`"consistency"`}},
		"a malformed query":          {method: "GET", path: "/nodes/a?x=%zz", mentions: []string{"query"}},
		"a query with semicolons":    {method: "GET", path: "/nodes/a?x;y", mentions: []string{"query"}},

		"a form": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Type: application/x-www-form-urlencoded"},
			status: 415, code: "unsupported_media_type", mentions: []string{"application/json"}},
		"a malformed content type": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Type: /;"},
			status: 415, code: "unsupported_media_type", mentions: []string{"application/json"}},
		"two content types": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Type: application/json", "Content-Type: text/plain"},
			status: 415, code: "unsupported_media_type", mentions: []string{"application/json", "text/plain"}},
		"a compressed body": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Encoding: gzip"},
			status: 415, code: "unsupported_media_type", mentions: []string{"gzip"}},
		"two content encodings": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Encoding: identity", "Content-Encoding: gzip"},
			status: 415, code: "unsupported_media_type", mentions: []string{"gzip"}},
		"a body too large": {method: "PUT", path: "/nodes", body: `{"id":"` + strings.Repeat("a", 1<<20) + `"}`,
			status: 413, code: "body_too_large", mentions: []string{"1048576"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			if test.status == 0 {
				test.status = 400
			}
			if test.code == "" {
				test.code = "invalid_request"
			}
			got := s.do(t, test.method, test.path, test.body, test.header...)
			code, detail := got.problem(t)
			if got.status != test.status || code != test.code {
				t.Errorf("answer = %d %s, want %d %s; detail: %s", got.status, code, test.status, test.code, detail)
			}
			for _, word := range test.mentions {
				if !strings.Contains(detail, word) {
					t.Errorf("the detail does not mention %s: %s", word, detail)
				}
			}
			if value := got.header.Get("Nodesmetadata-Revision"); value != test.revision {
				t.Errorf("Nodesmetadata-Revision = %q, want %q", value, test.revision)
			}
			if hasNode := strings.Contains(got.body, `,"node":{`); hasNode != (test.node != "") {
				t.Errorf("the problem has a node = %v, want %v: %s", hasNode, !hasNode, got.body)
			}
			if !strings.Contains(got.body, test.node) {
				t.Errorf("problem = %s, want %q as its current node", got.body, test.node)
			}
			if after := s.do(t, "GET", "/nodes", ""); after.body != `{"a":`+nodeA+`,"b":`+nodeB+`}` {
				t.Errorf("a refused call changed the registry: %s", after.body)
			}
		})
	}
}

func TestAnErrorQuotesNoMoreThanALineOfItsRequest(t *testing.T) {
	s := start(t)
	for _, begin := range []string{"", "e"} { // with one of them the cut would fall into the middle of a letter
		got := s.do(t, "PUT", "/nodes/a", `{"address":"h:1","state":"`+begin+strings.Repeat("é", 1<<18)+`"}`)
		if _, detail := got.problem(t); got.status != 400 || len(detail) > 1100 || !strings.HasSuffix(detail, "é…") {
			t.Errorf("answer = %d with a detail of %d bytes ending with %q, want 400 with at most 1100 bytes and an ellipsis", got.status, len(detail), detail[max(0, len(detail)-10):])
		}
	}
}
