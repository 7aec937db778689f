package peerapi_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestReadIndexGivesTheIndexOfTheLeader(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	for _, index := range []uint64{1, 42, 1 << 53, math.MaxUint64} {
		i.leads(index)
		want := ports.ReadIndex{RaftID: someone.RaftID, ClusterID: someone.ClusterID, Index: index, Members: []string{"n1", "n2"}}
		if got, err := c.ReadIndex(within(t, 5*time.Second), i.address()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ReadIndex = %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestTheReadIndexOnTheWire(t *testing.T) {
	i := start(t, "127.0.0.1:0")
	i.leads(42)
	const question = "GET /read-index HTTP/1.1\r\nHost: x\r\n\r\n"
	response, body := ask(t, i.address(), question)
	if want := `{"raft_id":"n1","cluster_id":"6a1f","index":42,"members":["n1","n2"]}`; response.StatusCode != http.StatusOK || body != want {
		t.Errorf("answer = %d %s, want 200 %s", response.StatusCode, body, want)
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	i.fails(ports.ErrNotLeader)
	response, body = ask(t, i.address(), question)
	want := fmt.Sprintf(`{"type":"about:blank","title":"Service Unavailable","status":503,"detail":%q,"code":"not_leader","error":%[1]q}`,
		ports.ErrNotLeader.Error())
	if response.StatusCode != http.StatusServiceUnavailable || body != want {
		t.Errorf("answer = %d %s, want 503 %s", response.StatusCode, body, want)
	}
	if response.Close || response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("connection closed = %v, content type = %q, want false and a problem document", response.Close, response.Header.Get("Content-Type"))
	}
}

// The caller decides whether these are the ids that it expects.
func TestOtherIDsArePassedThrough(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	i.leads(7)
	for name, identity := range map[string]ports.Identity{
		"of another cluster":  {RaftID: someone.RaftID, ApplicationAddress: "a:1", ClusterID: "another"},
		"of another instance": {RaftID: "another", ApplicationAddress: "a:1", ClusterID: someone.ClusterID},
		"of no cluster":       {RaftID: "n9", ApplicationAddress: "a:1"},
	} {
		i.become(identity)
		want := ports.ReadIndex{RaftID: identity.RaftID, ClusterID: identity.ClusterID, Index: 7, Members: []string{"n1", "n2"}}
		if got, err := c.ReadIndex(within(t, 5*time.Second), i.address()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: ReadIndex = %+v, %v, want %+v", name, got, err, want)
		}
	}
}

// An instance that can't prove leadership, because it is closing or hears from nobody,
// refuses as well. The next request must use the same connection.
func TestAFollowerRefusesAndKeepsTheConnection(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	for _, reason := range []error{ports.ErrNotLeader, ports.ErrClosed, context.DeadlineExceeded, errors.New("any other")} {
		i.fails(reason)
		_, err := c.ReadIndex(within(t, 5*time.Second), i.address())
		if !errors.Is(err, ports.ErrNotLeader) || !strings.Contains(err.Error(), i.address()) {
			t.Errorf("after %v: error = %v, want ErrNotLeader naming %s", reason, err, i.address())
		}
	}
	i.leads(9)
	if got, err := c.ReadIndex(within(t, 5*time.Second), i.address()); err != nil || got.Index != 9 {
		t.Errorf("ReadIndex of the leader = %+v, %v, want 9", got, err)
	}
	if n := i.connections(); n != 1 {
		t.Errorf("connections = %d, want 1", n)
	}
}

// A leader that has lost its majority must not let the caller wait.
func TestALeaderWithoutAProofInTimeRefuses(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	i.answers(func(ctx context.Context) (uint64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
	began := time.Now()
	if _, err := c.ReadIndex(within(t, 10*time.Second), i.address()); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error = %v, want ErrNotLeader", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the answer took %v, want at most 4s", took)
	}
}

func TestAProofEndsWithItsRequest(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	asked, ended := make(chan struct{}), make(chan error, 1)
	i.answers(func(ctx context.Context) (uint64, error) {
		close(asked)
		<-ctx.Done()
		ended <- ctx.Err()
		return 0, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := c.ReadIndex(ctx, i.address())
		failed <- err
	}()
	<-asked
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error of the caller = %v, want %v", err, context.Canceled)
	}
	// The proof must not have ended by its own timeout.
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error of the proof = %v, want %v", err, context.Canceled)
	}
}

func TestAnInvalidReadIndexIsRefused(t *testing.T) {
	problem := func(status, body string) func(net.Conn) {
		return says(fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body))
	}
	tests := map[string]struct {
		behave func(net.Conn)
		says   string // part of the error
	}{
		"an empty answer":                 {says(""), "EOF"},
		"no HTTP":                         {says("SSH-2.0-OpenSSH\r\n"), "malformed"},
		"no JSON":                         {saysJSON("42"), "no read index"},
		"a truncated object":              {saysJSON(`{"raft_id":"n1","index":4`), "no read index"},
		"data after the object":           {saysJSON(`{"raft_id":"n1","index":4}{}`), "no read index"},
		"a truncated body":                {says("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"), "EOF"},
		"an empty object":                 {saysJSON(`{}`), "index is missing"},
		"an object without an index":      {saysJSON(`{"raft_id":"n1","cluster_id":"c"}`), "index is missing"},
		"index zero":                      {saysJSON(`{"raft_id":"n1","index":0}`), "index is missing"},
		"an index below zero":             {saysJSON(`{"raft_id":"n1","index":-1}`), "no read index"},
		"a fractional index":              {saysJSON(`{"raft_id":"n1","index":1.5}`), "no read index"},
		"an index that is a string":       {saysJSON(`{"raft_id":"n1","index":"7"}`), "no read index"},
		"an index over 64 bits":           {saysJSON(`{"raft_id":"n1","index":18446744073709551616}`), "no read index"},
		"two indexes":                     {saysJSON(`{"raft_id":"n1","index":4,"index":5}`), "duplicate"},
		"no id":                           {saysJSON(`{"index":4}`), "raft_id must not be empty"},
		"an id of several lines":          {saysJSON(`{"raft_id":"n\n1","index":4}`), "raft_id may only have"},
		"a cluster id of several lines":   {saysJSON(`{"raft_id":"n1","cluster_id":"c\n","index":4}`), "cluster_id has characters"},
		"a cluster id that is too long":   {saysJSON(`{"raft_id":"n1","cluster_id":"` + strings.Repeat("x", 1000) + `","index":4}`), "cluster_id is over"},
		"a body that is too long":         {saysJSON(`{"raft_id":"n1","index":4,"x":"` + strings.Repeat("x", 1<<20) + `"}`), "over 1048576 bytes"},
		"a body without end":              {floods("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat(" ", 4096)), "over 1048576 bytes"},
		"a redirect":                      {says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "status 302"},
		"another status, without a code":  {problem("503 Oops", ""), "status 503"},
		"another status and another code": {problem("503 Oops", `{"code":"closed"}`), "status 503"},
		"an earlier version without it":   {problem("404 Not Found", `{"code":"not_found"}`), "status 404"},
		"a code without a problem":        {problem("503 Oops", `not_leader`), "status 503"},
		"a code on success":               {saysJSON(`{"code":"not_leader"}`), "index is missing"},
		"an index without success":        {problem("201 Created", `{"raft_id":"n1","index":4}`), "status 201"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			address := impostor(t, test.behave)
			got, err := client(t).ReadIndex(within(t, 5*time.Second), address)
			if err == nil {
				t.Fatalf("ReadIndex = %+v, want an error", got)
			}
			if errors.Is(err, ports.ErrNotLeader) || errors.Is(err, domain.ErrInvalid) || !reflect.DeepEqual(got, ports.ReadIndex{}) {
				t.Errorf("ReadIndex = %+v, %v, want neither ErrNotLeader nor ErrInvalid", got, err)
			}
			if !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), address) {
				t.Errorf("error = %q, want it to name %q and %q", err, address, test.says)
			}
		})
	}
}

func TestAReadIndexMayNameManyMembers(t *testing.T) {
	members := make([]string, 2000)
	for at := range members {
		members[at] = fmt.Sprintf("n%0*d", domain.MaxIDBytes-1, at)
	}
	address := impostor(t, saysJSON(`{"raft_id":"n1","cluster_id":"c","index":4,"members":["`+strings.Join(members, `","`)+`"]}`))
	want := ports.ReadIndex{RaftID: "n1", ClusterID: "c", Index: 4, Members: members}
	if got, err := client(t).ReadIndex(within(t, 5*time.Second), address); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ReadIndex = %d with %d members, %v, want %d with %d", got.Index, len(got.Members), err, want.Index, len(want.Members))
	}
}

func TestAReadIndexOfALaterVersionIsRead(t *testing.T) {
	address := impostor(t, saysJSON(`{"raft_id":"n1","cluster_id":"c","index":4,"term":9,"more":{"x":[1]}}`))
	want := ports.ReadIndex{RaftID: "n1", ClusterID: "c", Index: 4}
	if got, err := client(t).ReadIndex(within(t, 5*time.Second), address); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ReadIndex = %+v, %v, want %+v", got, err, want)
	}
	address = impostor(t, says("HTTP/1.1 421 Misdirected\r\nContent-Length: 34\r\n\r\n"+`{"code":"not_leader","leader":"b"}`))
	if _, err := client(t).ReadIndex(within(t, 5*time.Second), address); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("error of a refusal of a later version = %v, want %v", err, ports.ErrNotLeader)
	}
}

func TestReadIndexWithAnEndedContextSendsNothing(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	i.leads(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ReadIndex(ctx, i.address()); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
}

func TestReadIndexOfAClosedClientSendsNothing(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), peerapi.NewClient(nil)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadIndex(within(t, 5*time.Second), i.address()); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("error = %v, want ErrClosed", err)
	}
	if _, err := client(t).ReadIndex(within(t, time.Second), "n1"); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("error for an invalid address = %v, want %v", err, domain.ErrInvalid)
	}
}

func TestClosingTheServerEndsAProof(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	asked := make(chan struct{})
	i.answers(func(ctx context.Context) (uint64, error) {
		close(asked)
		<-ctx.Done()
		return 0, ports.ErrClosed
	})
	failed := make(chan error, 1)
	go func() {
		_, err := c.ReadIndex(within(t, 10*time.Second), i.address())
		failed <- err
	}()
	<-asked
	began := time.Now()
	if err := i.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Close took %v, want at most 4s", took)
	}
	if err := <-failed; err == nil {
		t.Error("ReadIndex succeeded without a proof")
	}
}

// Leadership and identity change during many requests: each answer must have been
// true as a whole at some time.
func TestConcurrentReadIndexesWhileTheLeaderChanges(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	var index atomic.Uint64
	i.answers(func(context.Context) (uint64, error) {
		if n := index.Add(1); n%3 != 0 {
			return n, nil
		}
		return 0, ports.ErrNotLeader
	})
	other := someone
	other.ClusterID = "another"
	var asking sync.WaitGroup
	for range 30 {
		asking.Go(func() {
			for n := range 10 {
				i.become([]ports.Identity{someone, other}[n%2])
				least := index.Load()
				got, err := c.ReadIndex(within(t, 10*time.Second), i.address())
				switch {
				case errors.Is(err, ports.ErrNotLeader):
				case err != nil:
					t.Error(err)
				case got.Index <= least || got.Index > index.Load() || got.RaftID != someone.RaftID ||
					got.ClusterID != someone.ClusterID && got.ClusterID != other.ClusterID:
					t.Errorf("ReadIndex = %+v, want more than %d", got, least)
				}
			}
		})
	}
	asking.Wait()
}
