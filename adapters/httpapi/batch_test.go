package httpapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestBatchesThatSucceed(t *testing.T) {
	const (
		putC    = `{"put":{"id":"c","address":"10.0.0.3:1"}}`
		putB    = `{"put":` + nodeB + `}`
		addedC  = `{"type":"added","revision":4,"node":` + nodeC + `}`
		sameB   = `{"type":"unchanged","revision":3,"node":` + nodeB + `}`
		moved   = `{"id":"a","address":"10.0.0.9:1","pool":"default","weight":100,"state":"active","slot":0,"createdRevision":1,"revision":4}`
		removed = `{"type":"removed","revision":4,"node":` + nodeA + `}`
	)
	tests := map[string]struct {
		changes  string
		header   []string
		results  string
		revision string
	}{
		"a node is added":                               {changes: putC, results: addedC, revision: "4"},
		"a node is changed":                             {changes: `{"put":{"id":"a","address":"10.0.0.9:1"}}`, results: `{"type":"updated","revision":4,"node":` + moved + `}`, revision: "4"},
		"a node is removed":                             {changes: `{"remove":"a"}`, results: removed, revision: "4"},
		"a change without effect makes no revision":     {changes: putB + `,` + putB, results: sameB + `,` + sameB, revision: "3"},
		"each result has the revision after its change": {changes: putB + `,` + putC + `,` + strings.ReplaceAll(putB, "{", "{ "), results: sameB + `,` + addedC + `,` + strings.Replace(sameB, `"revision":3`, `"revision":4`, 1), revision: "4"},
		"a put at the current revision is made":         {changes: `{"put":` + nodeB + `,"ifRevision":3}`, results: sameB, revision: "3"},
		"a removal at the current revision is made":     {changes: `{"ifRevision":1,"remove":"a"}`, results: removed, revision: "4"},
		"a put of a node that must be new is made":      {changes: `{"put":{"id":"c","address":"10.0.0.3:1"},"ifRevision":0}`, results: addedC, revision: "4"},
		"an address moves to another node": {
			changes: `{"remove":"a"},{"put":{"id":"d","address":"10.0.0.1:1"}}`,
			results: removed + `,{"type":"added","revision":5,"node":{"id":"d","address":"10.0.0.1:1","pool":"default","weight":100,"state":"active","slot":0,"createdRevision":5,"revision":5}}`, revision: "5"},
		"a condition sees the changes before it": {
			changes: `{"put":{"id":"c","address":"10.0.0.3:1"},"ifRevision":0},{"remove":"c","ifRevision":4}`,
			results: addedC + `,{"type":"removed","revision":5,"node":` + nodeC + `}`, revision: "5"},
		"a node has a time to live": {
			changes: `{"put":{"id":"c","address":"10.0.0.3:1","ttlSeconds":30,"onExpiry":"down"}}`,
			results: strings.Replace(addedC, `"slot"`, `"ttlSeconds":30,"onExpiry":"down","slot"`, 1), revision: "4"},
		"an id may be the word null":      {changes: `{"put":{"id":"null","address":"10.0.0.3:1"}}`, results: strings.Replace(addedC, `"c"`, `"null"`, 1), revision: "4"},
		"a content type may end in +json": {changes: putB, header: []string{"Content-Type: application/vnd.batch+json"}, results: sameB, revision: "3"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			got := s.do(t, "POST", "/nodes/batch", `{"changes":[`+test.changes+`]}`, test.header...)
			want := `{"revision":` + test.revision + `,"results":[` + test.results + `]}`
			if got.status != 200 || got.body != want {
				t.Errorf("answer = %d %s\nwant 200 %s", got.status, got.body, want)
			}
			if revision := got.header.Get("Nodesmetadata-Revision"); revision != test.revision || got.header.Get("ETag") != "" {
				t.Errorf("revision = %q, ETag = %q, want revision %s and no ETag", revision, got.header.Get("ETag"), test.revision)
			}
			if state, _ := s.instance.State(); fmt.Sprint(state.View.Revision()) != test.revision {
				t.Errorf("revision of the registry = %d, want %s", state.View.Revision(), test.revision)
			}
		})
	}
}

func TestBatchesThatAreRefused(t *testing.T) {
	const good = `{"put":{"id":"c","address":"10.0.0.3:1"}}`
	tests := map[string]struct {
		body   string
		header []string

		status   int
		code     string
		begins   string
		mentions []string
		revision string
		node     string
	}{
		"a removal of an unknown node": {body: changes(good, `{"remove":"x"}`), status: 404, code: "node_not_found",
			begins: "changes[1]: ", mentions: []string{`"x"`}, revision: "3"},
		"a node that an earlier change removed": {body: changes(`{"remove":"a"}`, `{"remove":"a"}`), status: 404, code: "node_not_found",
			begins: "changes[1]: ", mentions: []string{`"a"`}, revision: "3"},
		"an address in use": {body: changes(good, `{"put":{"id":"d","address":"10.0.0.1:1"}}`), status: 409, code: "address_in_use",
			begins: "changes[1]: ", mentions: []string{"10.0.0.1:1", `"a"`}, revision: "3"},
		"one address for two nodes": {body: changes(good, `{"put":{"id":"d","address":"10.0.0.3:1"}}`), status: 409, code: "address_in_use",
			begins: "changes[1]: ", mentions: []string{"10.0.0.3:1", `"c"`}, revision: "3"},
		"a put at another revision": {body: changes(good, `{"put":{"id":"b","address":"h:1"},"ifRevision":2}`), status: 412, code: "precondition_failed",
			begins: "changes[1]: ", mentions: []string{`"b"`, "3", "2"}, revision: "3", node: nodeB},
		"a removal at another revision": {body: changes(`{"remove":"b","ifRevision":2}`), status: 412, code: "precondition_failed",
			begins: "changes[0]: ", revision: "3", node: nodeB},
		"a put of an unknown node at a revision": {body: changes(good, `{"put":{"id":"x","address":"h:1"},"ifRevision":2}`), status: 412, code: "precondition_failed",
			begins: "changes[1]: ", revision: "3"},
		"a removal of an unknown node at a revision": {body: changes(`{"remove":"x","ifRevision":2}`), status: 404, code: "node_not_found",
			begins: "changes[0]: ", mentions: []string{`"x"`}, revision: "3"},
		"a node that must be new exists": {body: changes(good, `{"put":{"id":"a","address":"h:1"},"ifRevision":0}`), status: 412, code: "precondition_failed",
			begins: "changes[1]: ", revision: "3", node: nodeA},
		"two puts of a node that must be new": {body: changes(`{"put":{"id":"c","address":"h:1"},"ifRevision":0}`, `{"put":{"id":"c","address":"h:1"},"ifRevision":0}`),
			status: 412, code: "precondition_failed", begins: "changes[1]: ", revision: "3"},

		"no changes":                           {body: `{"changes":[]}`, begins: "changes ", mentions: []string{"1000", "0"}},
		"an empty object":                      {body: `{}`, begins: "changes "},
		"one change too many":                  {body: changes(slices.Repeat([]string{`{"remove":"a"}`}, 1001)...), begins: "changes ", mentions: []string{"1000", "1001"}},
		"an empty change":                      {body: changes(good, `{}`), begins: "changes[1]: ", mentions: []string{"put", "remove"}},
		"a change with only a condition":       {body: changes(good, `{"ifRevision":1}`), begins: "changes[1]: ", mentions: []string{"put", "remove"}},
		"both put and remove":                  {body: changes(`{"put":` + nodeA + `,"remove":"b"}`), begins: "changes[0]: ", mentions: []string{"put", "remove"}},
		"a removal of a node that must be new": {body: changes(good, `{"remove":"a","ifRevision":0}`), begins: "changes[1]: ", mentions: []string{"ifRevision"}},
		"a node without an id":                 {body: changes(`{"put":{"address":"h:1"}}`), begins: "changes[0]: ", mentions: []string{"id"}},
		"a node with a reserved id":            {body: changes(`{"put":{"id":"batch","address":"h:1"}}`), begins: "changes[0]: ", mentions: []string{`"batch"`}},
		"a removal without an id":              {body: changes(`{"remove":""}`), begins: "changes[0]: ", mentions: []string{"id"}},
		"a removal of a reserved id":           {body: changes(`{"remove":"sse"}`), begins: "changes[0]: ", mentions: []string{`"sse"`}},
		"a time to live of zero":               {body: changes(`{"put":{"id":"c","address":"h:1","ttlSeconds":0}}`), begins: "changes[0]: ", mentions: []string{"ttlSeconds"}},
		"an unknown expiry":                    {body: changes(`{"put":{"id":"c","address":"h:1","onExpiry":"drain"}}`), begins: "changes[0]: ", mentions: []string{"onExpiry", `"drain"`}},
		"faults in several changes":            {body: changes(`{"put":{"id":"-","address":"h"}}`, good, `{"remove":"-"}`, `{}`), begins: "changes[0]: ", mentions: []string{"changes[0]: id", "address must", "changes[2]: id", "changes[3]: "}},
		"an If-Match header":                   {body: changes(good), header: []string{`If-Match: "3"`}, mentions: []string{"If-Match"}},
		"an If-None-Match header":              {body: changes(good), header: []string{`If-None-Match: *`}, mentions: []string{"If-None-Match"}},

		"no body":                         {code: "invalid_json", mentions: []string{"empty"}},
		"null for the body":               {body: `null`, code: "invalid_json", mentions: []string{"the body", "null"}},
		"a list for the body":             {body: `[` + good + `]`, code: "invalid_json", mentions: []string{"an object"}},
		"null for the changes":            {body: `{"changes":null}`, code: "invalid_json", mentions: []string{`"changes" must not be null`}},
		"an object for the changes":       {body: `{"changes":{}}`, code: "invalid_json", mentions: []string{`"changes" must be an array`}},
		"null for a change":               {body: changes(good, `null`), code: "invalid_json", mentions: []string{`"changes.1" must not be null`}},
		"a string for a change":           {body: changes(`"a"`), code: "invalid_json", mentions: []string{`"changes.0" must be an object`}},
		"null for the node":               {body: changes(`{"put":null}`), code: "invalid_json", mentions: []string{`"changes.0.put" must not be null`}},
		"null for a put beside a removal": {body: changes(`{"put":null,"remove":"a"}`), code: "invalid_json", mentions: []string{`"changes.0.put" must not be null`}},
		"null for a condition":            {body: changes(`{"remove":"a","ifRevision":null}`), code: "invalid_json", mentions: []string{`"changes.0.ifRevision" must not be null`}},
		"null in a node":                  {body: changes(good, `{"put":{"id":"d","address":"h:1","ttlSeconds":null}}`), code: "invalid_json", mentions: []string{`"changes.1.put.ttlSeconds" must not be null`}},
		"a string for a put":              {body: changes(`{"put":"a"}`), code: "invalid_json", mentions: []string{`"changes.0.put" must be an object`}},
		"an object for a removal":         {body: changes(`{"remove":{"id":"a"}}`), code: "invalid_json", mentions: []string{`"changes.0.remove" must be a string`}},
		"a negative revision":             {body: changes(`{"remove":"a","ifRevision":-1}`), code: "invalid_json", mentions: []string{`"changes.0.ifRevision"`, "not negative", "-1"}},
		"a fractional revision":           {body: changes(`{"remove":"a","ifRevision":1.5}`), code: "invalid_json", mentions: []string{`"changes.0.ifRevision"`, "1.5"}},
		"a revision that is a string":     {body: changes(`{"remove":"a","ifRevision":"1"}`), code: "invalid_json", mentions: []string{`"changes.0.ifRevision"`}},
		"a revision that is an ETag":      {body: changes(`{"remove":"a","ifRevision":"\"1\""}`), code: "invalid_json", mentions: []string{`"changes.0.ifRevision"`}},
		"a revision over 64 bits":         {body: changes(`{"remove":"a","ifRevision":18446744073709551616}`), code: "invalid_json", mentions: []string{`"changes.0.ifRevision"`}},
		"an unknown field":                {body: `{"changes":[` + good + `],"force":true}`, code: "invalid_json", mentions: []string{`"force" is not known`}},
		"an unknown field of a change":    {body: changes(good, `{"remove":"a","ifMatch":1}`), code: "invalid_json", mentions: []string{`"changes.1.ifMatch" is not known`}},
		"an unknown field of a node":      {body: changes(`{"put":{"id":"c","address":"h:1","colour":1}}`), code: "invalid_json", mentions: []string{`"changes.0.put.colour" is not known`}},
		"changes twice":                   {body: `{"changes":[` + good + `],"changes":[]}`, code: "invalid_json", mentions: []string{`"changes"`, "duplicate"}},
		"a field twice":                   {body: changes(`{"remove":"a","remove":"b"}`), code: "invalid_json", mentions: []string{`"changes.0.remove"`, "duplicate"}},
		"a field of a node twice":         {body: changes(good, `{"put":{"id":"c","id":"d","address":"h:1"}}`), code: "invalid_json", mentions: []string{`"changes.1.put.id"`, "duplicate"}},
		"data after the object":           {body: changes(good) + `{}`, code: "invalid_json", mentions: []string{"after top-level value"}},
		"a truncated object":              {body: `{"changes":[` + good, code: "invalid_json", mentions: []string{"EOF"}},
		"a string that is not UTF-8":      {body: changes("{\"remove\":\"\xff\"}"), code: "invalid_json", mentions: []string{"UTF-8"}},

		"a body too large": {body: changes(good) + strings.Repeat(" ", 1<<20), status: 413, code: "body_too_large", mentions: []string{"1048576"}},
		"a form": {body: changes(good), header: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415,
			code: "unsupported_media_type", mentions: []string{"application/json"}},
		"newline-delimited JSON": {body: good + "\n" + good, header: []string{"Content-Type: application/x-ndjson"}, status: 415,
			code: "unsupported_media_type", mentions: []string{"application/json"}},
		"a compressed body": {body: changes(good), header: []string{"Content-Encoding: gzip"}, status: 415,
			code: "unsupported_media_type", mentions: []string{"gzip"}},
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
			got := s.do(t, "POST", "/nodes/batch", test.body, test.header...)
			code, detail := got.problem(t)
			if got.status != test.status || code != test.code || !strings.HasPrefix(detail, test.begins) {
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
			if hasNode := strings.Contains(got.body, `,"node":{`); hasNode != (test.node != "") || !strings.Contains(got.body, test.node) {
				t.Errorf("problem = %s, want %q as its current node", got.body, test.node)
			}
			if after := s.do(t, "GET", "/nodes", ""); after.body != `{"a":`+nodeA+`,"b":`+nodeB+`}` {
				t.Errorf("a refused batch changed the registry: %s", after.body)
			}
		})
	}
}

// changes returns the body of a batch of these changes.
func changes(each ...string) string { return `{"changes":[` + strings.Join(each, ",") + `]}` }

func TestABatchMayHoldAThousandChanges(t *testing.T) {
	s := start(t)
	var puts, removes []string
	for i := range domain.MaxBatch {
		puts = append(puts, fmt.Sprintf(`{"put":{"id":"n%d","address":"h:%d"}}`, i, i+1))
		removes = append(removes, fmt.Sprintf(`{"remove":"n%d"}`, i))
	}
	events := s.stream(t, "/nodes/sse")
	events.event(t)
	if got := s.do(t, "POST", "/nodes/batch", changes(puts...)); got.status != 200 || got.header.Get("Nodesmetadata-Revision") != "1000" ||
		strings.Count(got.body, `"type":"added"`) != domain.MaxBatch {
		t.Errorf("answer = %d %.200s, want 200 and %d nodes added", got.status, got.body, domain.MaxBatch)
	}
	if got := s.do(t, "POST", "/nodes/batch", changes(removes...)); got.status != 200 || got.header.Get("Nodesmetadata-Revision") != "2000" ||
		strings.Count(got.body, `"type":"removed"`) != domain.MaxBatch {
		t.Errorf("answer = %d %.200s, want 200 and %d nodes removed", got.status, got.body, domain.MaxBatch)
	}
	// Each change is an event of its own.
	for revision := 1; revision <= 2*domain.MaxBatch; revision++ {
		want := "added"
		if revision > domain.MaxBatch {
			want = "removed"
		}
		if got := events.event(t); got.id != fmt.Sprint(revision) || got.kind != want {
			t.Fatalf("event = %q, want %s with id %d", got.raw, want, revision)
		}
	}
}
