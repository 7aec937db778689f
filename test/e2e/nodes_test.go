package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func problemOf(t *testing.T, err error) *harness.Problem {
	t.Helper()
	problem := new(harness.Problem)
	if !errors.As(err, &problem) {
		t.Fatalf("error = %v, want a problem document", err)
	}
	if problem.Status != problem.Answer.Status || problem.Code == "" || problem.Detail == "" || problem.Detail != problem.Older ||
		problem.Type == "" || problem.Title == "" || problem.Answer.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("the problem document is incomplete: %+v, %s", problem, problem.Answer.Body)
	}
	return problem
}

func TestEveryInstanceWritesAndReadsNodes(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		checkMembers(t, c)
		var followers []*harness.Follower
		for _, i := range c.Instances {
			followers = append(followers, harness.Follow(t, i.Client))
		}
		t.Run("followers redirect", func(t *testing.T) { checkRedirects(t, c) })
		t.Run("every instance writes and reads", func(t *testing.T) { checkReadYourWrites(t, c) })
		t.Run("conditions are honoured", func(t *testing.T) { checkConditions(t, c) })
		registry := checkDense(t, c.Instances[0].Client)
		for _, follower := range followers {
			follower.Await(t, registry.Revision)
			follower.Stop()
			sameRegistry(t, "the copy of a stream", follower.Registry(), registry)
			if streams, snapshots := follower.Counts(); streams != 1 || snapshots != 1 {
				t.Errorf("a subscriber used %d streams and %d snapshots, want 1 of each", streams, snapshots)
			}
		}
	})
}

func checkRedirects(t *testing.T, c *harness.Cluster) {
	leader := c.Leader()
	calls := []struct{ method, path, body string }{
		{http.MethodGet, "/nodes", ""},
		{http.MethodGet, "/nodes/a", ""},
		{http.MethodPut, "/nodes", `{"id":"a","address":"a.example:1"}`},
		{http.MethodPut, "/nodes/a", `{"address":"a.example:1"}`},
		{http.MethodDelete, "/nodes/a", ""},
		{http.MethodGet, "/nodes/sse?since=0", ""},
		{http.MethodPut, "/raft/node", `{"id":"n1","address":"127.0.0.1:1"}`},
		{http.MethodDelete, "/raft/node/n1", ""},
		{http.MethodGet, "/raft/metadata", ""},
		{http.MethodGet, "/raft/metadata/sse", ""},
	}
	for _, follower := range c.Followers() {
		for _, call := range calls {
			answer, err := follower.NotFollowing().Do(t.Context(), call.method, call.path, call.body)
			// A redirect has a problem document, too.
			if err != nil {
				t.Fatal(err)
			}
			want := "http://" + leader.Application + call.path
			if got := answer.Header.Get("Location"); answer.Status != http.StatusTemporaryRedirect || got != want {
				t.Errorf("%s %s: status %d to %q, want a redirect to %q", call.method, call.path, answer.Status, got, want)
			}
		}
		for _, path := range []string{"/livez", "/readyz", "/metrics", "/version"} {
			answer, err := follower.NotFollowing().Do(t.Context(), http.MethodGet, path, nil)
			if err != nil || answer.Status != http.StatusOK {
				t.Errorf("GET %s of a follower: status = %d (%v), want 200", path, answer.Status, err)
			}
		}
	}
}

func checkReadYourWrites(t *testing.T, c *harness.Cluster) {
	before := list(t, c.Instances[0].Client).Revision
	for n := range 30 {
		writer := c.Instances[n%len(c.Instances)]
		id := fmt.Sprintf("node-%d", n)
		stored := put(t, writer.Client, id)
		if want := before + uint64(n) + 1; stored.Revision != want || stored.Seen != want || stored.CreatedRevision != want {
			t.Errorf("stored node = %+v, want revision %d", stored, want)
		}
		for _, reader := range c.Instances {
			read, err := reader.Get(t.Context(), id)
			if err != nil {
				t.Fatalf("%s reads %s after it was written through %s: %v", reader.ID, id, writer.ID, err)
			}
			if !reflect.DeepEqual(read.Node, stored.Node) || read.Seen < stored.Seen {
				t.Errorf("read through %s = %+v, want %+v as written", reader.ID, read, stored)
			}
		}
	}
}

func checkConditions(t *testing.T, c *harness.Cluster) {
	refused := func(what string, err error, want int) {
		t.Helper()
		if problem := problemOf(t, err); problem.Status != want {
			t.Errorf("%s: error = %v, want status %d", what, problem, want)
		}
	}
	for n, i := range c.Instances {
		node := harness.NewNode(fmt.Sprintf("conditional-%d", n))
		_, err := i.Put(t.Context(), node, harness.IfRevision(1))
		refused("put at a revision of a node that does not exist", err, http.StatusPreconditionFailed)
		first, err := i.Put(t.Context(), node, harness.IfAbsent())
		if err != nil || !first.Created {
			t.Fatalf("put if absent of a new node = %+v, %v, want it created", first, err)
		}
		_, err = i.Put(t.Context(), node, harness.IfAbsent())
		refused("put if absent of a node that exists", err, http.StatusPreconditionFailed)
		if current := problemOf(t, err).Node; current == nil || current.Revision != first.Revision {
			t.Errorf("error = %v, want one that contains the current node", err)
		}
		same, err := i.Put(t.Context(), node)
		if err != nil || same.Created || same.Seen != first.Seen || same.Revision != first.Revision {
			t.Errorf("put that changes nothing = %+v, %v, want no change of %+v", same, err, first)
		}
		node.Zone = "eu-1a"
		second, err := i.Put(t.Context(), node, harness.IfRevision(first.Revision))
		if err != nil || second.Created || second.Revision != first.Revision+1 || second.Slot != first.Slot {
			t.Errorf("put at the node's revision = %+v, %v, want an update of %+v", second, err, first)
		}
		_, err = i.Delete(t.Context(), node.ID, harness.IfRevision(first.Revision))
		refused("delete at an old revision", err, http.StatusPreconditionFailed)
		other := harness.NewNode(node.ID + "-other")
		other.Address = node.Address
		_, err = i.Put(t.Context(), other)
		refused("put with the address of another node", err, http.StatusConflict)
		gone, err := i.Delete(t.Context(), node.ID, harness.IfRevision(second.Revision))
		if err != nil || gone.ID != node.ID || gone.Seen != second.Seen+1 {
			t.Errorf("delete at the node's revision = %+v, %v, want success at revision %d", gone, err, second.Seen+1)
		}
		_, err = i.Delete(t.Context(), node.ID)
		refused("delete of a removed node", err, http.StatusNotFound)
		_, err = i.Get(t.Context(), node.ID)
		refused("read of a removed node", err, http.StatusNotFound)
	}
}
