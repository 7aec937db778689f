package httpapi_test

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// parameters are all parameters, with values that are accepted and values that are refused.
// with is another parameter that a parameter needs.
var parameters = map[string]struct {
	with      string
	good, bad []string
}{
	"redirect": {
		good: []string{"true", "false"},
		bad:  []string{"", "yes", "1", "TRUE", " false", "false,true"},
	},
	"consistency": {
		good: []string{"linearizable", "stale"},
		bad:  []string{"", "strong", "Stale", "stale,linearizable"},
	},
	"max_stale": {
		with: "consistency=stale",
		good: []string{"0", "0s", "500ms", "1.5s", "24h"},
		bad:  []string{"", "5", "-1ms", "x", "1 s", "1d", "9999999999h"},
	},
	"min_revision": {
		good: []string{"0", "3"},
		bad:  []string{"", "-1", "+1", "01", "1.0", "0x1", "1_0", "x", " 1", "18446744073709551616"},
	},
	"wait": {
		with: "min_revision=1",
		good: []string{"0s", "1ms", "60s", "1m", "0.5s"},
		bad:  []string{"", "5", "-1s", "x", "61s", "60.001s", "1h", "9999999999h"},
	},
	"since": {
		good: []string{"0", "2"},
		bad:  []string{"", "-1", "+1", "01", "1.0", "0x1", "1_0", "x", " 1", "18446744073709551616"},
	},
	"pool": {
		good: []string{"default", "p:1", strings.Repeat("p", domain.MaxIDBytes)},
		bad:  []string{"", "-", "a b", "é", strings.Repeat("p", domain.MaxIDBytes+1)},
	},
	"state": {
		good: []string{"active", "draining", "down"},
		bad:  []string{"", "up", "Active", "active,down"},
	},
	"zone": {
		good: []string{"", "eu-1a", "é &=", strings.Repeat("z", domain.MaxZoneBytes)},
		bad:  []string{"\x00", "a\nb", "\xff", strings.Repeat("z", domain.MaxZoneBytes+1)},
	},
	"force": {
		good: []string{"true", "false"},
		bad:  []string{"", "yes", "1", "TRUE", " true", "true,true"},
	},
	"label": {
		good: []string{"rack=r7", "rack=", "a=b=c", "a=é &", "a=" + strings.Repeat("v", domain.MaxLabelValueBytes)},
		bad:  []string{"", "rack", "=r7", "a b=c", "a=\n", "a=\xff", "a=" + strings.Repeat("v", domain.MaxLabelValueBytes+1)},
	},
}

var (
	sourceParameters = []string{"redirect", "consistency"}
	readParameters   = []string{"redirect", "consistency", "max_stale", "min_revision", "wait"}
	filterParameters = []string{"pool", "state", "zone", "label"}
)

// parameterCalls are the calls that accept parameters, and their statuses on the seeded
// registry, which they do not change.
var parameterCalls = []struct {
	method, path, body string
	status             int
	takes              []string
	stream             bool
}{
	{method: "GET", path: "/nodes", status: 200, takes: slices.Concat(readParameters, filterParameters, []string{"since"})},
	{method: "GET", path: "/nodes/a", status: 200, takes: readParameters},
	{method: "GET", path: "/nodes/expire", status: 404, takes: readParameters},
	{method: "PUT", path: "/nodes", body: nodeA, status: 200, takes: []string{"redirect"}},
	{method: "PUT", path: "/nodes/a", body: nodeA, status: 200, takes: []string{"redirect"}},
	{method: "DELETE", path: "/nodes/x", status: 404, takes: []string{"redirect"}},
	{method: "DELETE", path: "/nodes/expire", status: 404, takes: []string{"redirect"}},
	{method: "POST", path: "/nodes/batch", body: `{"changes":[{"put":` + nodeA + `}]}`, status: 200, takes: []string{"redirect"}},
	{method: "POST", path: "/nodes/a/heartbeat", status: 409, takes: []string{"redirect"}},
	{method: "GET", path: "/nodes/sse", status: 200, takes: slices.Concat(sourceParameters, filterParameters, []string{"since"}), stream: true},
	{method: "PUT", path: "/raft/node", body: `{"id":"n1","address":"127.0.0.1:7000"}`, status: 200, takes: []string{"redirect", "force"}},
	{method: "DELETE", path: "/raft/node/n9", status: 404, takes: []string{"redirect"}},
	{method: "POST", path: "/raft/leadership", body: `{"id":"n1"}`, status: 200, takes: []string{"redirect"}},
	{method: "GET", path: "/raft/metadata", status: 200, takes: sourceParameters},
	{method: "GET", path: "/raft/metadata/sse", status: 200, takes: sourceParameters, stream: true},
}

// query returns name=value, after the parameter that it needs.
func query(name, value string) string {
	text := name + "=" + url.QueryEscape(value)
	if with := parameters[name].with; with != "" {
		return with + "&" + text
	}
	return text
}

func TestEveryCallAcceptsOnlyItsParameters(t *testing.T) {
	s := start(t)
	seed(t, s)
	for _, call := range parameterCalls {
		t.Run(call.method+" "+call.path, func(t *testing.T) {
			isTaken := func(query string) {
				t.Helper()
				method := call.method
				if call.stream {
					method = http.MethodHead // is decided like a GET, but ends
				}
				if got := s.do(t, method, call.path+"?"+query, call.body); got.status != call.status {
					t.Errorf("%q: answer = %d %s, want %d", query, got.status, got.body, call.status)
				}
			}
			isRefused := func(query string, mentions ...string) {
				t.Helper()
				got := s.do(t, call.method, call.path+"?"+query, call.body)
				code, detail := got.problem(t)
				if got.status != 400 || code != "invalid_request" {
					t.Errorf("%q: answer = %d %s, want 400 invalid_request; detail: %s", query, got.status, code, detail)
				}
				for _, word := range mentions {
					if !strings.Contains(detail, word) {
						t.Errorf("%q: the detail does not mention %s: %s", query, word, detail)
					}
				}
			}
			for name, parameter := range parameters {
				if !slices.Contains(call.takes, name) {
					isRefused(name+"="+url.QueryEscape(parameter.good[0]), strconv.Quote(name), "not supported")
					continue
				}
				for _, value := range parameter.good {
					isTaken(query(name, value))
					if name != "label" {
						isRefused(query(name, value)+"&"+name+"="+url.QueryEscape(value), strconv.Quote(name), "2 times")
					}
				}
				for _, value := range parameter.bad {
					isRefused(query(name, value), name)
				}
			}
			isTaken("")
			isTaken("redirect=true")
			isRefused("node=a", `"node"`)
			isRefused("Redirect=true", `"Redirect"`)
			isRefused("x&y=1&z", `"x"`, `"y"`, `"z"`)
			isRefused("redirect=%zz", "query")
			isRefused("redirect=true;x", "query")
		})
	}
	if got := s.do(t, "GET", "/nodes", ""); got.body != `{"a":`+nodeA+`,"b":`+nodeB+`}` {
		t.Errorf("registry = %s, want it unchanged", got.body)
	}
}

func TestTheCallToExpireNeedsAPool(t *testing.T) {
	s := start(t)
	for _, value := range parameters["pool"].good {
		if got := s.do(t, "POST", "/nodes/expire?"+query("pool", value), ""); got.status != 200 || got.body != `{"revision":0,"expired":[]}` {
			t.Errorf("%q: answer = %d %s, want 200 and no node", value, got.status, got.body)
		}
	}
	refused := []string{"", "?redirect=false", "?pool=default&pool=default", "?pool=default&state=active", "?pool=default&redirect=no"}
	for _, value := range parameters["pool"].bad {
		refused = append(refused, "?"+query("pool", value))
	}
	mentions := map[string]string{"?pool=default&state=active": `"state"`, "?pool=default&redirect=no": "redirect"}
	for _, query := range refused {
		got := s.do(t, "POST", "/nodes/expire"+query, "")
		code, detail := got.problem(t)
		word := "pool"
		if other, is := mentions[query]; is {
			word = other
		}
		if got.status != 400 || code != "invalid_request" || !strings.Contains(detail, word) {
			t.Errorf("%q: answer = %d %s, want 400 invalid_request naming %s; detail: %s", query, got.status, code, word, detail)
		}
	}
}

func TestContradictingParametersAreRefused(t *testing.T) {
	s := start(t)
	seed(t, s)
	tests := map[string]struct {
		query    string
		mentions []string
	}{
		"a bound on a list that is not stale":       {"/nodes?max_stale=1s", []string{"max_stale", "consistency=stale"}},
		"a bound on a linearizable node":            {"/nodes/a?max_stale=1s&consistency=linearizable", []string{"max_stale"}},
		"a wait of a list for nothing":              {"/nodes?wait=1s", []string{"wait", "min_revision", "since"}},
		"a wait of a node for nothing":              {"/nodes/a?wait=1s&consistency=stale", []string{"wait"}},
		"too many labels of a list":                 {"/nodes?" + labels(domain.MaxLabels+1), []string{"label", "33"}},
		"too many labels of a stream":               {"/nodes/sse?" + labels(domain.MaxLabels+1), []string{"label", "33"}},
		"several malformed labels":                  {"/nodes?label=a&label=b=c&label=d&label=%20=e", []string{`"a"`, `"d"`, `" "`}},
		"a malformed position and a malformed pool": {"/nodes/sse?since=x&pool=-", []string{"since", "pool"}},
		"all faults of a list": {
			"/nodes?redirect=a&consistency=b&max_stale=c&min_revision=d&wait=e&since=f&pool=-&state=g&zone=%00&label=h",
			[]string{"redirect", "consistency", "max_stale", "min_revision", "wait", "since", "pool", "state", "zone", "label"}},
		"all faults of a node": {
			"/nodes/a?redirect=a&consistency=b&max_stale=c&min_revision=d&wait=e",
			[]string{"redirect", "consistency", "max_stale", "min_revision", "wait"}},
		"all faults of a stream": {
			"/nodes/sse?redirect=a&consistency=b&since=c&pool=-&state=d&zone=%00&label=e",
			[]string{"redirect", "consistency", "since", "pool", "state", "zone", "label"}},
		"all faults of a call for the cluster": {"/raft/metadata?redirect=a&consistency=b", []string{"redirect", "consistency"}},
		"unknown and repeated parameters":      {"/nodes?x=1&y=2&pool=a&pool=b&zone=&zone=", []string{`"x"`, `"y"`, `"pool"`, `"zone"`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := s.do(t, "GET", test.query, "")
			code, detail := got.problem(t)
			if got.status != 400 || code != "invalid_request" {
				t.Errorf("answer = %d %s, want 400 invalid_request", got.status, code)
			}
			for _, word := range test.mentions {
				if !strings.Contains(detail, word) {
					t.Errorf("the detail does not mention %s: %s", word, detail)
				}
			}
		})
	}
	// As many labels as a node can have are accepted.
	if got := s.do(t, "GET", "/nodes?"+labels(domain.MaxLabels), ""); got.status != 200 || got.body != "{}" {
		t.Errorf("answer = %d %s, want 200 with no node", got.status, got.body)
	}
}

// labels returns a query with n labels.
func labels(n int) string {
	var text []string
	for i := range n {
		text = append(text, "label=k"+strconv.Itoa(i)+"=v")
	}
	return strings.Join(text, "&")
}

// A follower reports a fault before it looks for the leader, which would only report it again.
func TestAFollowerRefusesBadParametersItself(t *testing.T) {
	s := start(t)
	s.follow("leader.test:8080")
	for _, call := range parameterCalls {
		for _, query := range []string{"redirect=no", "x=1", "redirect=true&redirect=true"} {
			got := s.do(t, call.method, call.path+"?"+query, call.body)
			if got.status != 400 {
				t.Errorf("%s %s?%s: status = %d, want 400", call.method, call.path, query, got.status)
			}
		}
	}
}

func TestEndpointsOfTheInstanceAcceptAnyParameters(t *testing.T) {
	s := start(t)
	s.loseLeader()
	for path, status := range map[string]int{"/livez": 200, "/readyz": 503, "/version": 200, "/metrics": 200} {
		for _, query := range []string{"redirect=x&consistency=stale&wait=1h", "redirect=false&redirect=false", "%zz", "since=0&wait=60s"} {
			if got := s.do(t, "GET", path+"?"+query, ""); got.status != status || strings.Contains(got.body, "about:blank") {
				t.Errorf("%s?%s: answer = %d %s, want %d and no problem", path, query, got.status, got.body, status)
			}
		}
	}
}
