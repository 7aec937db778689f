package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestJoining(t *testing.T) {
	wish := domain.Instance{ID: "n3", RaftAddress: "h3:7000", Suffrage: domain.Nonvoter}
	t.Run("the leader accepts it", func(t *testing.T) {
		s := start(t)
		s.addNeighbours()
		if err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish); err != nil {
			t.Fatal(err)
		}
		s.isMember(t, wish)
	})
	t.Run("a follower redirects it", func(t *testing.T) {
		leader, follower := start(t), start(t)
		leader.addNeighbours()
		follower.follow(leader.address)
		if err := httpapi.NewJoinClient().Ask(t.Context(), follower.address, wish); err != nil {
			t.Fatal(err)
		}
		leader.isMember(t, wish)
	})
	t.Run("a refusal gives the reason", func(t *testing.T) {
		s := start(t)
		taken := wish
		taken.RaftAddress = "127.0.0.1:7000"
		err := httpapi.NewJoinClient().Ask(t.Context(), s.address, taken)
		if err == nil || !strings.Contains(err.Error(), "address_in_use") || !strings.Contains(err.Error(), `"n1"`) {
			t.Errorf("error = %v, want address_in_use by n1", err)
		}
	})
	t.Run("the leader does not reach the instance", func(t *testing.T) {
		s := start(t)
		err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish)
		if err == nil || !strings.Contains(err.Error(), "instance_unreachable") || !strings.Contains(err.Error(), "h3:7000") {
			t.Errorf("error = %v, want instance_unreachable at h3:7000", err)
		}
	})
	t.Run("nobody leads", func(t *testing.T) {
		s := start(t)
		s.loseLeader()
		err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish)
		if err == nil || !strings.Contains(err.Error(), "no_leader") {
			t.Errorf("error = %v, want no_leader", err)
		}
	})
	t.Run("two followers redirect to each other", func(t *testing.T) {
		a, b := start(t), start(t)
		a.follow(b.address)
		b.follow(a.address)
		err := httpapi.NewJoinClient().Ask(t.Context(), a.address, wish)
		if err == nil || !strings.Contains(err.Error(), "redirects") {
			t.Errorf("error = %v, want too many redirects", err)
		}
	})
	t.Run("no server listens", func(t *testing.T) {
		if err := httpapi.NewJoinClient().Ask(t.Context(), "127.0.0.1:1", wish); err == nil {
			t.Error("Ask without a server = nil, want an error")
		}
	})
	t.Run("another server refuses it", func(t *testing.T) {
		for status, body := range map[int]string{404: "<html>" + strings.Repeat("x", 1<<20), 302: "", 500: "{}"} {
			address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			})
			if err := httpapi.NewJoinClient().Ask(t.Context(), address, wish); err == nil || len(err.Error()) > 1000 {
				t.Errorf("status %d: error = %v, want one of at most 1000 bytes", status, err)
			}
		}
	})
	t.Run("another server answers 200", func(t *testing.T) {
		for name, test := range map[string]struct {
			body string
			says bool // whether this means that the instance is a member
		}{
			"an empty body":                            {body: ""},
			"an HTML page":                             {body: "<html>" + strings.Repeat("x", 1<<20)},
			"another document":                         {body: `{"status":"ok"}`},
			"a list":                                   {body: `[{"id":"n3","address":"h3:7000"}]`},
			"another instance":                         {body: `{"id":"n4","address":"h3:7000","suffrage":"voter"}`},
			"another address":                          {body: `{"id":"n3","address":"h4:7000","suffrage":"voter"}`},
			"the instance as a nonvoter":               {body: `{"id":"n3","address":"h3:7000","suffrage":"nonvoter"}`, says: true},
			"the instance as a voter":                  {body: `{"id":"n3","address":"h3:7000","suffrage":"voter"}`, says: true},
			"an unknown suffrage and an unknown field": {body: `{"id":"n3","address":"h3:7000","suffrage":"witness","since":7}`, says: true},
		} {
			address := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(test.body)) })
			err := httpapi.NewJoinClient().Ask(t.Context(), address, wish)
			if (err == nil) != test.says || err != nil && (len(err.Error()) > 1000 || !strings.Contains(err.Error(), address)) {
				t.Errorf("%s: error = %v, want success: %v", name, err, test.says)
			}
		}
	})
	t.Run("a server never answers", func(t *testing.T) {
		arrived := make(chan struct{})
		address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // net/http notices that the client has gone only after the body
			close(arrived)
			<-r.Context().Done()
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		if err := httpapi.NewJoinClient().Ask(ctx, address, wish); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled", err)
		}
	})
	t.Run("a proxy in the environment is ignored", func(t *testing.T) {
		t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
		s := start(t)
		s.addNeighbours()
		if err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish); err != nil {
			t.Error(err)
		}
	})
}

var _ ports.Admission = (*httpapi.JoinClient)(nil)

func (s *service) isMember(t *testing.T, wanted domain.Instance) {
	t.Helper()
	roster, err := s.instance.Roster(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := roster.Find(wanted.ID); got != wanted {
		t.Errorf("member = %+v, want %+v", got, wanted)
	}
}

// serve starts a server with this handler and returns its address.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// asking implements ports.JoinStatus with a fixed text.
type asking string

func (a asking) JoinStatus() string { return string(a) }

func TestAnInstanceThatAsksToBeAddedSaysSo(t *testing.T) {
	const waits = "it is not a member of a raft cluster: it waits to be added (PUT /raft/node on the leader)"
	tests := map[string]struct {
		joining ports.JoinStatus
		member  bool
		want    string
	}{
		"the instance asks":        {asking("it asks a:80"), false, "it is not a member of a raft cluster: it asks a:80"},
		"the instance asks no one": {asking(""), false, waits},
		"no join is configured":    {nil, false, waits},
		"a member does not ask":    {asking("it asks a:80"), true, "it knows no leader"},
		"a long text is cut":       {asking(strings.Repeat("x", 4<<10)), false, "it is not a member of a raft cluster: xxx"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(c *httpapi.Config) { c.Joining = test.joining })
			s.instance.Change(func(state *ports.LocalState) { *state = ports.LocalState{Member: test.member} })
			got := s.do(t, "GET", "/readyz", "")
			var body struct{ Reasons []string }
			if err := json.Unmarshal([]byte(got.body), &body); err != nil || len(body.Reasons) == 0 {
				t.Fatalf("body = %s, want reasons: %v", got.body, err)
			}
			if first := body.Reasons[0]; !strings.HasPrefix(first, test.want) || len(first) > 2<<10 {
				t.Errorf("first reason = %q, want %q in at most 2 KiB", first, test.want)
			}
		})
	}
}
