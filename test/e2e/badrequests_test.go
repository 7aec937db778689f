package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// badRequest is a request that must be refused with the status want.
type badRequest struct {
	method, path string
	body         any
	headers      []harness.Header
	want         int
}

func badRequests() map[string]badRequest {
	requests := map[string]badRequest{
		"an unknown path":                       {method: "GET", path: "/", want: 404},
		"a path below another":                  {method: "GET", path: "/nodes/a/b", want: 404},
		"a path that ends with a slash":         {method: "GET", path: "/nodes/", want: 404},
		"a path that goes up":                   {method: "GET", path: "/nodes/../../etc/passwd", want: 404},
		"an id with a zero in it":               {method: "GET", path: "/nodes/%00", want: 400},
		"an id with a slash in it":              {method: "GET", path: "/nodes/..%2f..%2fetc", want: 400},
		"an id that is too long":                {method: "GET", path: "/nodes/" + strings.Repeat("a", 129), want: 400},
		"an id that is much too long":           {method: "GET", path: "/nodes/" + strings.Repeat("a", 8<<10), want: 400},
		"an id of an instance that is too long": {method: "DELETE", path: "/raft/node/" + strings.Repeat("a", 129), want: 400},
		"a parameter that is not known":         {method: "GET", path: "/nodes?limit=5", want: 400},
		"a query that is badly encoded":         {method: "GET", path: "/nodes?since=%zz", want: 400},
		"a position that is no number":          {method: "GET", path: "/nodes/sse?since=latest", want: 400},
		"a position that is negative":           {method: "GET", path: "/nodes/sse?since=-1", want: 400},
		"a position that is too large":          {method: "GET", path: "/nodes/sse?since=18446744073709551616", want: 400},
		"a Last-Event-ID that is no number":     {method: "GET", path: "/nodes/sse", headers: []harness.Header{{Name: "Last-Event-ID", Value: "x"}}, want: 400},
		"a revision without quotes":             {method: "DELETE", path: "/nodes/a", headers: []harness.Header{{Name: "If-Match", Value: "7"}}, want: 400},
		"a revision that is no number":          {method: "DELETE", path: "/nodes/a", headers: []harness.Header{{Name: "If-Match", Value: `"x"`}}, want: 400},
		"two conditions": {method: "PUT", path: "/nodes/a", body: `{"address":"a:1"}`,
			headers: []harness.Header{{Name: "If-Match", Value: `"1"`}, {Name: "If-None-Match", Value: "*"}}, want: 400},
		"a type that is not JSON": {method: "PUT", path: "/nodes/a", body: `{"address":"a:1"}`,
			headers: []harness.Header{{Name: "Content-Type", Value: "text/plain"}}, want: 415},
		"a body that is compressed": {method: "PUT", path: "/nodes/a", body: "\x1f\x8b",
			headers: []harness.Header{{Name: "Content-Encoding", Value: "gzip"}}, want: 415},
		"an id in the body that is not that of the path": {method: "PUT", path: "/nodes/a", body: `{"id":"b","address":"a:1"}`, want: 400},
		"a header that is too long":                      {method: "GET", path: "/nodes", headers: []harness.Header{{Name: "X", Value: strings.Repeat("x", 1<<20)}}, want: 431},
	}
	for _, path := range []string{"/nodes", "/nodes/a", "/nodes/sse", "/raft/node", "/raft/node/a", "/raft/metadata",
		"/raft/metadata/sse", "/livez", "/readyz", "/version", "/metrics"} {
		for _, method := range []string{"POST", "PATCH", "TRACE", "OPTIONS", "BREW"} {
			requests[method+" "+path] = badRequest{method: method, path: path, want: 405}
		}
	}
	addBadBodies(requests)
	return requests
}

func addBadBodies(requests map[string]badRequest) {
	any := map[string]string{
		"nothing":                     "",
		"the beginning of an object":  "{",
		"a list":                      "[]",
		"null":                        "null",
		"a string":                    `"x"`,
		"an empty object":             "{}",
		"a member that is not known":  `{"id":"a","address":"a:1","colour":"red"}`,
		"a member twice":              `{"id":"a","id":"a","address":"a:1"}`,
		"something after the object":  `{"id":"a","address":"a:1"} {}`,
		"a null in it":                `{"id":"a","address":null}`,
		"no valid UTF-8":              "{\"id\":\"a\",\"address\":\"a:1\xff\"}",
		"an id that is a number":      `{"id":1,"address":"a:1"}`,
		"an id with a space":          `{"id":"a b","address":"a:1"}`,
		"an id that is empty":         `{"id":"","address":"a:1"}`,
		"an address without a port":   `{"id":"a","address":"a"}`,
		"an address with port 0":      `{"id":"a","address":"a:0"}`,
		"an address with port 65536":  `{"id":"a","address":"a:65536"}`,
		"an address without brackets": `{"id":"a","address":"::1:80"}`,
		"a wildcard address":          `{"id":"a","address":"0.0.0.0:bad"}`,
		"an address with line ends":   `{"id":"a","address":"a\r\nX: y:80"}`,
		"a hundred thousand brackets": strings.Repeat("[", 100_000),
		"objects in objects":          strings.Repeat(`{"labels":`, 20_000),
	}
	for name, body := range any {
		requests["PUT /nodes with "+name] = badRequest{method: "PUT", path: "/nodes", body: body, want: 400}
		requests["PUT /raft/node with "+name] = badRequest{method: "PUT", path: "/raft/node", body: body, want: 400}
	}
	labels := make([]string, 33)
	for n := range labels {
		labels[n] = fmt.Sprintf(`"l%d":"x"`, n)
	}
	for name, member := range map[string]string{
		"a weight that is a string":   `"weight":"1"`,
		"a weight that is negative":   `"weight":-1`,
		"a weight that is too large":  `"weight":1000001`,
		"a weight beyond all numbers": `"weight":1e400`,
		"half a weight":               `"weight":1.5`,
		"a pool with a space":         `"pool":"a b"`,
		"a zone that is too long":     `"zone":"` + strings.Repeat("z", 129) + `"`,
		"an unknown state":            `"state":"asleep"`,
		"labels in a list":            `"labels":["a"]`,
		"a label that is a number":    `"labels":{"a":1}`,
		"a label without a name":      `"labels":{"":"x"}`,
		"a label that is too long":    `"labels":{"a":"` + strings.Repeat("x", 257) + `"}`,
		"too many labels":             `"labels":{` + strings.Join(labels, ",") + `}`,
	} {
		requests["PUT /nodes with "+name] = badRequest{method: "PUT", path: "/nodes/a", body: `{"address":"a:1",` + member + `}`, want: 400}
	}
	for _, id := range []string{"sse", "batch"} {
		requests["PUT /nodes with the id "+id] = badRequest{method: "PUT", path: "/nodes", body: `{"id":"` + id + `","address":"a:1"}`, want: 400}
	}
	requests["PUT /raft/node with an unknown suffrage"] = badRequest{method: "PUT", path: "/raft/node",
		body: `{"id":"a","address":"a:1","suffrage":"some"}`, want: 400}
	for _, path := range []string{"/nodes", "/nodes/a", "/raft/node"} {
		requests["PUT "+path+" with too long a body"] = badRequest{method: "PUT", path: path,
			body: `{"id":"a","address":"` + strings.Repeat("a", 2<<20) + `"}`, want: 413}
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		canary := startCanary(t, c)
		canary.await(t, 10)
		leader, follower := c.Leader(), c.Followers()[0]
		for name, request := range badRequests() {
			answer, err := leader.Do(t.Context(), request.method, request.path, request.body, request.headers...)
			switch {
			case answer.Status == 0 && request.want == http.StatusRequestEntityTooLarge:
				// The server may close the connection while the body is being sent.
			case answer.Status != request.want:
				t.Errorf("%s: status = %d (%v), want %d", name, answer.Status, err, request.want)
			case request.want == http.StatusMethodNotAllowed && answer.Header.Get("Allow") == "":
				t.Errorf("%s: the header Allow is missing", name)
			case request.want != http.StatusRequestHeaderFieldsTooLarge:
				problemOf(t, err)
			}
			// A follower refuses the request itself, or redirects it to the leader, which does.
			answer, err = follower.Do(t.Context(), request.method, request.path, request.body, request.headers...)
			if answer.Status >= 500 || answer.Status == 0 && request.want != http.StatusRequestEntityTooLarge || answer.Status != 0 && answer.Status < 400 {
				t.Errorf("%s, sent to a follower: status = %d (%v), want a refusal or a redirect to one", name, answer.Status, err)
			}
		}
		canary.check(t)
		if ids := list(t, leader.Client).Nodes; len(ids) != 1 {
			t.Errorf("nodes after refused requests = %+v, want only that of the canary", ids)
		}
		checkMembers(t, c)
	})
}

func TestGarbageOnTheApplicationPortEndsTheConnection(t *testing.T) {
	c := harness.Start(t, harness.Options{Size: 1})
	i := c.Instances[0]
	var all sync.WaitGroup
	for name, bytes := range map[string]string{
		"no HTTP":                        "hello\r\n\r\n",
		"zeros":                          strings.Repeat("\x00", 1000),
		"a TLS hello":                    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"no host":                        "GET /nodes HTTP/1.1\r\n\r\n",
		"two lengths":                    "PUT /nodes HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"a length that is negative":      "PUT /nodes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
		"a length and chunks":            "PUT /nodes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a chunk without a valid length": "PUT /nodes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"a path that is badly encoded":   "GET /nodes/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"a header with a space in it":    "GET /nodes HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
		"an HTTP/2 preface with garbage": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		all.Go(func() {
			answer, err := exchange(i.Application, bytes)
			if err != nil {
				t.Errorf("after %s: the connection was not closed: %v", name, err)
			}
			if strings.HasPrefix(answer, "HTTP/1.1 ") && !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%s: answer = %.100q, want a status of 4xx", name, answer)
			}
		})
	}
	all.Wait()
	put(t, i.Client, "a")
}

// patience is how long a useless connection may live.
const patience = 10 * time.Second

// exchange sends bytes and returns everything received until the other side closes
// the connection. It is an error if that does not happen within patience.
func exchange(address, bytes string) (string, error) {
	conn, err := hostile.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, bytes) // the other side may close in the middle
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return string(answer), err
	}
	return string(answer), nil // a reset closes the connection, too
}
