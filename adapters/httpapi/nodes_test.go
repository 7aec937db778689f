package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// seed is the registry that the tables below begin with: a at revision 1, and b
// at revision 3 with a change behind it.
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
		"the list is an object in ascending order of ids": {
			method: "GET", path: "/nodes", status: 200, want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list is not sent to who has it": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: "3"`}, status: 304, etag: `"3"`, revision: "3"},
		"the list is not sent to who has it among others": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: "1", W/"3"`}, status: 304, etag: `"3"`, revision: "3"},
		"the list is not sent to who has any": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: *`}, status: 304, etag: `"3"`, revision: "3"},
		"the list is sent to who has an older one": {
			method: "GET", path: "/nodes", header: []string{`If-None-Match: "2"`}, status: 200,
			want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list is sent while it is what it was": {
			method: "GET", path: "/nodes", header: []string{`If-Match: "2", "3"`}, status: 200,
			want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list is sent while there is any": {
			method: "GET", path: "/nodes", header: []string{`If-Match: *`}, status: 200,
			want: `{"a":` + nodeA + `,"b":` + nodeB + `}`, etag: `"3"`, revision: "3"},
		"the list that is what it was is not sent to who has it": {
			method: "GET", path: "/nodes", header: []string{`If-Match: "3"`, `If-None-Match: "3"`}, status: 304, etag: `"3"`, revision: "3"},
		"a HEAD of the list has its header only": {
			method: "HEAD", path: "/nodes", status: 200, etag: `"3"`, revision: "3"},
		"a node is read with its own revision as its tag": {
			method: "GET", path: "/nodes/a", status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"a node is not sent to who has it": {
			method: "GET", path: "/nodes/a", header: []string{`If-None-Match: W/"1"`}, status: 304, etag: `"1"`, revision: "3"},
		"a node is sent while it is what it was": {
			method: "GET", path: "/nodes/a", header: []string{`If-Match: W/"9","1"`}, status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"an id in a path may be percent-encoded": {
			method: "GET", path: "/nodes/%61", status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"a HEAD of a node has its header only": {
			method: "HEAD", path: "/nodes/a", status: 200, etag: `"1"`, revision: "3"},
		"a body is not encoded where that is said of it, or nothing": {
			method: "PUT", path: "/nodes/a", body: nodeA, header: []string{"Content-Encoding: ", "Content-Encoding: Identity"},
			status: 200, want: nodeA, etag: `"1"`, revision: "3"},
		"a new node is created": {
			method: "PUT", path: "/nodes", body: `{"id":"c","address":"10.0.0.3:1"}`,
			status: 201, want: nodeC, etag: `"4"`, revision: "4", location: "/nodes/c"},
		"a new node is created under its path": {
			method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.3:1"}`,
			status: 201, want: nodeC, etag: `"4"`, revision: "4", location: "/nodes/c"},
		"an id with a colon is one, encoded or not": {
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
		"what was read can be sent back, and changes nothing": {
			method: "PUT", path: "/nodes", body: nodeB, status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"the server's own fields are ignored": {
			method: "PUT", path: "/nodes/b", body: `{"address":"10.0.0.2:1","weight":7,"slot":99,"revision":-1.5,"createdRevision":1e9}`,
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a write at the revision that it names is made": {
			method: "PUT", path: "/nodes/b", body: `{"address":"10.0.0.2:1","weight":7}`, header: []string{`If-Match: "3"`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a write to any that exists is made": {
			method: "PUT", path: "/nodes", body: nodeB, header: []string{`If-Match: *`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a write of what must be new is made": {
			method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.3:1"}`, header: []string{`If-None-Match: *`},
			status: 201, want: nodeC, etag: `"4"`, revision: "4", location: "/nodes/c"},
		"JSON may be declared with parameters": {
			method: "PUT", path: "/nodes", body: nodeB, header: []string{`Content-Type: Application/JSON; charset=utf-8`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a type that ends in +json is JSON": {
			method: "PUT", path: "/nodes", body: nodeB, header: []string{`Content-Type: application/vnd.node+json`},
			status: 200, want: nodeB, etag: `"3"`, revision: "3"},
		"a node is removed": {
			method: "DELETE", path: "/nodes/a", status: 200, want: nodeA, revision: "4"},
		"a node is removed at the revision that is named": {
			method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "3"`}, status: 200, want: nodeB, revision: "4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			got := s.do(t, test.method, test.path, test.body, test.header...)
			if got.status != test.status || got.body != test.want {
				t.Errorf("got %d %s\nwant %d %s", got.status, got.body, test.status, test.want)
			}
			for header, want := range map[string]string{
				"ETag": test.etag, "Nodesmetadata-Revision": test.revision, "Location": test.location,
			} {
				if value := got.header.Get(header); value != want {
					t.Errorf("%s is %q, want %q", header, value, want)
				}
			}
			if got.status != http.StatusNotModified && got.header.Get("Content-Type") != "application/json" {
				t.Errorf("content type is %q", got.header.Get("Content-Type"))
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
		"no such node to read": {method: "GET", path: "/nodes/x", status: 404, code: "node_not_found", mentions: []string{`"x"`}, revision: "3"},
		"no such node to read, whatever it was": {method: "GET", path: "/nodes/x", header: []string{`If-Match: *`}, status: 404,
			code: "node_not_found", revision: "3"},
		"another revision, at a read": {method: "GET", path: "/nodes/b", header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", mentions: []string{`"3"`, `"2"`}, revision: "3", node: nodeB},
		"a weak tag, at a read": {method: "GET", path: "/nodes/b", header: []string{`If-Match: W/"3"`}, status: 412,
			code: "precondition_failed", mentions: []string{`W/`}, revision: "3", node: nodeB},
		"another revision, at a read of what is there otherwise": {method: "GET", path: "/nodes/b",
			header: []string{`If-Match: "2"`, `If-None-Match: "3"`}, status: 412, code: "precondition_failed", revision: "3", node: nodeB},
		"another revision of the list": {method: "GET", path: "/nodes", header: []string{`If-Match: "1", "2"`}, status: 412,
			code: "precondition_failed", mentions: []string{`"3"`, `"2"`}, revision: "3"},
		"another revision of a list that has not changed": {method: "GET", path: "/nodes?since=3&wait=1ms", header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", revision: "3"},
		"no revision of the list": {method: "GET", path: "/nodes", header: []string{`If-Match: `}, status: 412,
			code: "precondition_failed", revision: "3"},
		"no such node to remove": {method: "DELETE", path: "/nodes/x", status: 404, code: "node_not_found",
			mentions: []string{`"x"`}, revision: "3"},
		"the address of another": {method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.1:1"}`, status: 409, code: "address_in_use",
			mentions: []string{"10.0.0.1:1", `"a"`}, revision: "3"},
		"another revision": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", mentions: []string{"3", "2"}, revision: "3", node: nodeB},
		"another revision, at a removal": {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", revision: "3", node: nodeB},
		"a condition on what is not there": {method: "PUT", path: "/nodes/c", body: good, header: []string{`If-Match: "2"`}, status: 412,
			code: "precondition_failed", revision: "3"},
		"any revision of what is not there": {method: "PUT", path: "/nodes/c", body: good, header: []string{`If-Match: *`}, status: 412,
			code: "precondition_failed", revision: "3"},
		"what must be new is not": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-None-Match: *`}, status: 412,
			code: "precondition_failed", revision: "3", node: nodeB},

		"a weak tag":            {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: W/"3"`}, mentions: []string{"If-Match"}},
		"a list of tags":        {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "3", "4"`}, mentions: []string{"If-Match"}},
		"two tags":              {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "3"`, `If-Match: "3"`}, mentions: []string{"If-Match"}},
		"a tag without quotes":  {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: 3`}, mentions: []string{"If-Match"}},
		"an empty tag":          {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: ""`}, mentions: []string{"If-Match"}},
		"an empty header":       {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: `}, mentions: []string{"If-Match"}},
		"one quote":             {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "`}, mentions: []string{"If-Match"}},
		"a tag that no one got": {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "03"`}, mentions: []string{"If-Match"}},
		"a negative tag":        {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "-3"`}, mentions: []string{"If-Match"}},
		"a tag too large":       {method: "DELETE", path: "/nodes/b", header: []string{`If-Match: "18446744073709551616"`}, mentions: []string{"If-Match"}},
		"both conditions": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-Match: "3"`, `If-None-Match: *`},
			mentions: []string{"If-Match", "If-None-Match"}},
		"a tag where only * makes sense": {method: "PUT", path: "/nodes/b", body: good, header: []string{`If-None-Match: "3"`},
			mentions: []string{"If-None-Match"}},
		"a removal of what must be absent": {method: "DELETE", path: "/nodes/b", header: []string{`If-None-Match: *`},
			mentions: []string{"If-None-Match"}},

		"no body":                    {method: "PUT", path: "/nodes", code: "invalid_json", mentions: []string{"empty"}},
		"only blanks":                {method: "PUT", path: "/nodes", body: " \n", code: "invalid_json", mentions: []string{"empty"}},
		"no JSON":                    {method: "PUT", path: "/nodes", body: `id=a`, code: "invalid_json", mentions: []string{"invalid character"}},
		"half of it":                 {method: "PUT", path: "/nodes", body: `{"id":"c"`, code: "invalid_json", mentions: []string{"EOF"}},
		"an array":                   {method: "PUT", path: "/nodes", body: `[]`, code: "invalid_json", mentions: []string{"an object"}},
		"null":                       {method: "PUT", path: "/nodes", body: `null`, code: "invalid_json", mentions: []string{"null"}},
		"more after it":              {method: "PUT", path: "/nodes", body: `{"id":"c"} {}`, code: "invalid_json", mentions: []string{"after top-level value"}},
		"a byte order mark":          {method: "PUT", path: "/nodes", body: "\ufeff{}", code: "invalid_json", mentions: []string{"invalid character"}},
		"an unknown field":           {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","colour":1}`, code: "invalid_json", mentions: []string{`"colour"`, "not known"}},
		"a field in other letters":   {method: "PUT", path: "/nodes/c", body: `{"Address":"h:1"}`, code: "invalid_json", mentions: []string{`"Address"`}},
		"a field twice":              {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","address":"h:2"}`, code: "invalid_json", mentions: []string{`"address"`, "duplicate"}},
		"a label twice":              {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":{"a":"","a":""}}`, code: "invalid_json", mentions: []string{`"labels.a"`, "duplicate"}},
		"a number for a string":      {method: "PUT", path: "/nodes/c", body: `{"address":1}`, code: "invalid_json", mentions: []string{`"address" must be a string`}},
		"a string for a number":      {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","weight":"1"}`, code: "invalid_json", mentions: []string{`"weight" must be an integer`}},
		"a fraction":                 {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","weight":1.5}`, code: "invalid_json", mentions: []string{`"weight" must be an integer: 1.5`}},
		"a number out of all bounds": {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","weight":99999999999999999999}`, code: "invalid_json", mentions: []string{`"weight"`}},
		"a label that is no string":  {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":{"a":1}}`, code: "invalid_json", mentions: []string{`"labels.a" must be a string`}},
		"labels in a list":           {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":[]}`, code: "invalid_json", mentions: []string{`"labels" must be an object`}},
		"a slot that is no number":   {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","slot":"1"}`, code: "invalid_json", mentions: []string{`"slot" must be a number`}},
		"null for a value":           {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","pool":null}`, code: "invalid_json", mentions: []string{`"pool" must not be null`}},
		"null for a label":           {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","labels":{"a":null}}`, code: "invalid_json", mentions: []string{`"labels.a" must not be null`}},
		"null for an ignored field":  {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","slot":null}`, code: "invalid_json", mentions: []string{`"slot" must not be null`}},
		"no UTF-8":                   {method: "PUT", path: "/nodes/c", body: "{\"address\":\"h:1\",\"zone\":\"\xff\"}", code: "invalid_json", mentions: []string{`"zone"`, "UTF-8"}},
		"half a surrogate pair":      {method: "PUT", path: "/nodes/c", body: `{"address":"h:1","zone":"\ud800"}`, code: "invalid_json", mentions: []string{`"zone"`, "surrogate"}},

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
		"bytes that are no text":    {method: "DELETE", path: "/nodes/%ff", mentions: []string{`\xff`}},
		"a line break in an id":     {method: "DELETE", path: "/nodes/a%0Ab", mentions: []string{`a\nb`}},
		"an id too long":            {method: "GET", path: "/nodes/" + strings.Repeat("a", 129), mentions: []string{"129"}},

		"a parameter that this call does not know": {method: "GET", path: "/nodes?revision=3", mentions: []string{`"revision"`}},
		"several of them":                          {method: "GET", path: "/nodes/a?pool=x&zone=y", mentions: []string{`"pool"`, `"zone"`}},
		"a parameter on a write":                   {method: "PUT", path: "/nodes?consistency=stale", body: good, mentions: []string{`"consistency"`}},
		"a query that can't be read":               {method: "GET", path: "/nodes/a?x=%zz", mentions: []string{"query"}},
		"a query with semicolons":                  {method: "GET", path: "/nodes/a?x;y", mentions: []string{"query"}},

		"a form": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Type: application/x-www-form-urlencoded"},
			status: 415, code: "unsupported_media_type", mentions: []string{"application/json"}},
		"a type that can't be read": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Type: /;"},
			status: 415, code: "unsupported_media_type", mentions: []string{"application/json"}},
		"two types": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Type: application/json", "Content-Type: text/plain"},
			status: 415, code: "unsupported_media_type", mentions: []string{"application/json", "text/plain"}},
		"a compressed body": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Encoding: gzip"},
			status: 415, code: "unsupported_media_type", mentions: []string{"gzip"}},
		"two encodings": {method: "PUT", path: "/nodes", body: nodeB, header: []string{"Content-Encoding: identity", "Content-Encoding: gzip"},
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
				t.Errorf("got %d %s, want %d %s: %s", got.status, code, test.status, test.code, detail)
			}
			for _, word := range test.mentions {
				if !strings.Contains(detail, word) {
					t.Errorf("the detail does not mention %s: %s", word, detail)
				}
			}
			if value := got.header.Get("Nodesmetadata-Revision"); value != test.revision {
				t.Errorf("revision is %q, want %q", value, test.revision)
			}
			if hasNode := strings.Contains(got.body, `,"node":{`); hasNode != (test.node != "") {
				t.Errorf("the problem has a node: %v: %s", hasNode, got.body)
			}
			if !strings.Contains(got.body, test.node) {
				t.Errorf("the problem does not have the current node: %s", got.body)
			}
			if after := s.do(t, "GET", "/nodes", ""); after.body != `{"a":`+nodeA+`,"b":`+nodeB+`}` {
				t.Errorf("a refused call changed the registry: %s", after.body)
			}
		})
	}
}

func TestAnErrorQuotesNoMoreThanALineOfItsRequest(t *testing.T) {
	s := start(t)
	for _, begin := range []string{"", "e"} { // one of them is cut in the middle of a letter
		got := s.do(t, "PUT", "/nodes/a", `{"address":"h:1","state":"`+begin+strings.Repeat("é", 1<<18)+`"}`)
		if _, detail := got.problem(t); got.status != 400 || len(detail) > 1100 || !strings.HasSuffix(detail, "é…") {
			t.Errorf("got %d with a detail of %d bytes, which ends with %q", got.status, len(detail), detail[max(0, len(detail)-10):])
		}
	}
}
