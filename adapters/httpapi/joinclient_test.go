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
	t.Run("the leader takes it", func(t *testing.T) {
		s := start(t)
		s.addNeighbours()
		if err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish); err != nil {
			t.Fatal(err)
		}
		s.isMember(t, wish)
	})
	t.Run("a follower sends it on", func(t *testing.T) {
		leader, follower := start(t), start(t)
		leader.addNeighbours()
		follower.follow(leader.address)
		if err := httpapi.NewJoinClient().Ask(t.Context(), follower.address, wish); err != nil {
			t.Fatal(err)
		}
		leader.isMember(t, wish)
	})
	t.Run("a refusal says why", func(t *testing.T) {
		s := start(t)
		taken := wish
		taken.RaftAddress = "127.0.0.1:7000"
		err := httpapi.NewJoinClient().Ask(t.Context(), s.address, taken)
		if err == nil || !strings.Contains(err.Error(), "address_in_use") || !strings.Contains(err.Error(), `"n1"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the leader does not find it", func(t *testing.T) {
		s := start(t)
		err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish)
		if err == nil || !strings.Contains(err.Error(), "instance_unreachable") || !strings.Contains(err.Error(), "h3:7000") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody leads", func(t *testing.T) {
		s := start(t)
		s.loseLeader()
		err := httpapi.NewJoinClient().Ask(t.Context(), s.address, wish)
		if err == nil || !strings.Contains(err.Error(), "no_leader") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("two that send to each other", func(t *testing.T) {
		a, b := start(t), start(t)
		a.follow(b.address)
		b.follow(a.address)
		err := httpapi.NewJoinClient().Ask(t.Context(), a.address, wish)
		if err == nil || !strings.Contains(err.Error(), "redirects") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody is there", func(t *testing.T) {
		if err := httpapi.NewJoinClient().Ask(t.Context(), "127.0.0.1:1", wish); err == nil {
			t.Error("somebody answered")
		}
	})
	t.Run("something else is there", func(t *testing.T) {
		for status, body := range map[int]string{404: "<html>" + strings.Repeat("x", 1<<20), 302: "", 500: "{}"} {
			address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			})
			if err := httpapi.NewJoinClient().Ask(t.Context(), address, wish); err == nil || len(err.Error()) > 1000 {
				t.Errorf("%d: got %v", status, err)
			}
		}
	})
	t.Run("something else is there, and agrees to everything", func(t *testing.T) {
		for name, test := range map[string]struct {
			body string
			says bool // that wish is a member
		}{
			"nothing":                  {body: ""},
			"a page":                   {body: "<html>" + strings.Repeat("x", 1<<20)},
			"another document":         {body: `{"status":"ok"}`},
			"a list":                   {body: `[{"id":"n3","address":"h3:7000"}]`},
			"another instance":         {body: `{"id":"n4","address":"h3:7000","suffrage":"voter"}`},
			"another address":          {body: `{"id":"n3","address":"h4:7000","suffrage":"voter"}`},
			"what it was asked":        {body: `{"id":"n3","address":"h3:7000","suffrage":"nonvoter"}`, says: true},
			"that it counts":           {body: `{"id":"n3","address":"h3:7000","suffrage":"voter"}`, says: true},
			"more than this one reads": {body: `{"id":"n3","address":"h3:7000","suffrage":"witness","since":7}`, says: true},
		} {
			address := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(test.body)) })
			err := httpapi.NewJoinClient().Ask(t.Context(), address, wish)
			if (err == nil) != test.says || err != nil && (len(err.Error()) > 1000 || !strings.Contains(err.Error(), address)) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
	t.Run("it never ends", func(t *testing.T) {
		arrived := make(chan struct{})
		address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // net/http looks for the client's end only after the body
			close(arrived)
			<-r.Context().Done()
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		if err := httpapi.NewJoinClient().Ask(ctx, address, wish); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a proxy in the environment is no way", func(t *testing.T) {
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
		t.Errorf("the member is %+v", got)
	}
}

// serve gives the address where handler answers.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// asking is ports.JoinStatus in one text.
type asking string

func (a asking) JoinStatus() string { return string(a) }

func TestAnInstanceThatAsksToBeAddedSaysSo(t *testing.T) {
	const waits = "it is not a member of a raft cluster: it waits to be added (PUT /raft/node on the leader)"
	tests := map[string]struct {
		joining ports.JoinStatus
		member  bool
		want    string
	}{
		"it asks":                     {asking("it asks a:80"), false, "it is not a member of a raft cluster: it asks a:80"},
		"it asks nobody":              {asking(""), false, waits},
		"there is nobody who asks":    {nil, false, waits},
		"a member need not be added":  {asking("it asks a:80"), true, "it knows no leader"},
		"what it was told is bounded": {asking(strings.Repeat("x", 4<<10)), false, "it is not a member of a raft cluster: xxx"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(c *httpapi.Config) { c.Joining = test.joining })
			s.instance.Change(func(state *ports.LocalState) { *state = ports.LocalState{Member: test.member} })
			got := s.do(t, "GET", "/readyz", "")
			var body struct{ Reasons []string }
			if err := json.Unmarshal([]byte(got.body), &body); err != nil || len(body.Reasons) == 0 {
				t.Fatalf("%s: %v", got.body, err)
			}
			if first := body.Reasons[0]; !strings.HasPrefix(first, test.want) || len(first) > 2<<10 {
				t.Errorf("it says %q, want %q", first, test.want)
			}
		})
	}
}
