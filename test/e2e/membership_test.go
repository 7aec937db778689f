package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestIPv6(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, IPv6: true, Flags: calm})
		checkMembers(t, c)
		for n, i := range c.Instances {
			if !strings.HasPrefix(i.Application, "[::1]:") {
				t.Fatalf("%s is at %s", i.ID, i.Application)
			}
			put(t, i.Client, fmt.Sprintf("node-%d", n))
		}
		leader := c.Leader()
		leader.Kill()
		harness.Eventually(t, "a write after the leader was killed", func() error {
			_, err := c.Running()[0].Put(t.Context(), harness.NewNode("after"))
			return err
		})
		leader.Start()
		leader.AwaitReady()
		checkDense(t, leader.Client)
	})
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInstancesShareASecret(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		options := harness.Options{Backend: backend, Flags: append([]string{"--raft_secret_file=" + secretFile(t, "a secret of the cluster")}, calm...)}
		c := harness.Start(t, options)
		put(t, c.Instances[1].Client, "a")
		term := metadata(t, c.Instances[0].Client).Term
		checkMembers(t, c)
		answer, err := exchange(c.Instances[0].RaftBind, "\x02GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
		if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 403 ") || strings.Contains(answer, c.Instances[0].Application) {
			t.Errorf("answer to a request without the secret = %q, %v, want 403 without an address", answer, err)
		}

		for name, flags := range map[string][]string{
			"another secret": {"--raft_secret_file=" + secretFile(t, "a secret of somebody else")},
			"no secret":      nil,
		} {
			// The stranger has a known name and asks to be added under it.
			stranger := harness.New(t, harness.Options{Size: 1, Backend: backend, Flags: append(flags, "--join="+c.Instances[0].Application)}).Instances[0]
			stranger.ID = "stranger"
			stranger.Start()
			member := harness.Member{ID: "stranger", Address: stranger.RaftAddress, Suffrage: "nonvoter"}
			err := c.Instances[0].RaftAdd(t.Context(), member)
			refusedInstance(t, name, err, http.StatusUnprocessableEntity, "instance_unreachable")
			if err == nil || !strings.Contains(err.Error(), "raft secret") {
				t.Errorf("%s: refusal = %v, want one that names the raft secret", name, err)
			}
			before, err := rejectedPrefaces(t, append(c.Instances, stranger)...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Instances[0].RaftForce(t.Context(), member); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, name+": a raft connection is rejected", func() error {
				rejected, err := rejectedPrefaces(t, append(c.Instances, stranger)...)
				if err == nil && rejected == before {
					err = fmt.Errorf("no raft connection was rejected")
				}
				return err
			})
			for n := range 20 {
				put(t, c.Instances[n%3].Client, fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), n))
			}
			ready, err := stranger.Ready(t.Context())
			if err != nil || ready.Ready || ready.Member || ready.Revision != 0 {
				t.Errorf("%s: readiness of the stranger = %+v, %v, want no member at revision 0", name, ready, err)
			}
			if now := metadata(t, c.Instances[0].Client); now.Term != term {
				t.Errorf("%s: metadata with the stranger added = %+v, want term %d as before", name, now, term)
			}
			stranger.Stop()
			if err := c.Instances[0].RaftRemove(t.Context(), "stranger"); err != nil && problemOf(t, err).Status != http.StatusNotFound {
				t.Error(err)
			}
		}
	})
}

// rejectedPrefaces returns the number of raft connections that instances have refused.
func rejectedPrefaces(t *testing.T, instances ...*harness.Instance) (float64, error) {
	t.Helper()
	var rejected float64
	for _, i := range instances {
		metrics, err := i.Metrics(t.Context())
		if err != nil {
			return 0, err
		}
		rejected += metrics[`nodesmetadata_raft_port_rejected_total{reason="handshake_failed"}`]
	}
	return rejected, nil
}

func metadata(t *testing.T, through *harness.Client) harness.Metadata {
	t.Helper()
	metadata, err := through.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return metadata
}

func TestInstancesAreRemoved(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		put(t, c.Instances[0].Client, "a")
		leader, follower := c.Leader(), c.Followers()[0]

		_, err := follower.Do(t.Context(), http.MethodDelete, "/raft/node/nobody", nil)
		if problem := problemOf(t, err); problem.Status != http.StatusNotFound {
			t.Errorf("remove an unknown instance: error = %v, want 404", problem)
		}
		if err := follower.RaftRemove(t.Context(), follower.ID); err != nil {
			t.Fatal(err)
		}
		if left := metadata(t, leader.Client).NodesMetadata; len(left) != 2 || left[follower.ID].NodeID != "" {
			t.Errorf("members after the removal = %+v, want the other two", left)
		}
		put(t, leader.Client, "b")
		follower.Stop()

		// A leader hands over leadership before it is removed.
		answer, err := leader.NotFollowing().Do(t.Context(), http.MethodDelete, "/raft/node/"+leader.ID, nil)
		if err != nil || answer.Status != http.StatusTemporaryRedirect {
			t.Fatalf("remove the leader: %+v %v, want a redirect", answer, err)
		}
		successor := c.Leader()
		want := "http://" + successor.Application + "/raft/node/" + leader.ID
		if got := answer.Header.Get("Location"); got != want || successor == leader {
			t.Errorf("redirect to %s, want %s, at another leader", got, want)
		}
		if err := successor.RaftRemove(t.Context(), leader.ID); err != nil {
			t.Fatal(err)
		}
		leader.Stop()
		put(t, successor.Client, "c")

		err = successor.RaftRemove(t.Context(), successor.ID)
		if problem := problemOf(t, err); problem.Status != http.StatusConflict || problem.Code != "last_voter" {
			t.Errorf("remove the last voter: error = %v, want 409 last_voter", problem)
		}
		put(t, successor.Client, "d")
		checkDense(t, successor.Client)
	})
}

func TestAClientThatFollowsRedirectsRemovesTheLeader(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		leader := c.Leader()
		if err := leader.RaftRemove(t.Context(), leader.ID); err != nil {
			t.Fatal(err)
		}
		leader.Stop()
		successor := c.Leader()
		if left := metadata(t, successor.Client).NodesMetadata; len(left) != 2 || left[leader.ID].NodeID != "" {
			t.Errorf("members after the removal = %+v, want the other two", left)
		}
		put(t, successor.Client, "a")
	})
}

func TestMetadataShowsADeadInstanceAsUnreachable(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		leader, dead := c.Leader(), c.Followers()[0]
		dead.Pause()
		checkOneUnreachable(t, "paused", leader, dead)
		dead.Resume()
		dead.AwaitReady()
		checkMembers(t, c)
		dead.Kill()
		checkOneUnreachable(t, "killed", leader, dead)
	})
}

func checkOneUnreachable(t *testing.T, what string, leader, dead *harness.Instance) {
	t.Helper()
	began := time.Now()
	metadata := metadata(t, leader.Client)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("metadata with an instance %s took %v, want at most 2s", what, took)
	}
	got := metadata.NodesMetadata[dead.ID]
	want := harness.InstanceMetadata{NodeID: dead.ID, RaftAddress: dead.RaftAddress, Suffrage: "voter"}
	if got != want || metadata.LeaderNodeID != leader.ID || len(metadata.NodesMetadata) != 3 {
		t.Errorf("metadata with an instance %s = %+v, want 3 instances led by %s, with %+v", what, metadata, leader.ID, want)
	}
}

// clusterEvent is the data of an event of /raft/metadata/sse.
type clusterEvent struct {
	Type        string `json:"type"`
	NodeID      string `json:"nodeID"`
	RaftAddress string `json:"raftAddress"`
	Suffrage    string `json:"suffrage"`
	Term        uint64 `json:"term"`
}

func TestAStreamOfMetadataReportsMembershipChanges(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		leader, follower := c.Leader(), c.Followers()[0]
		stream := followCluster(t, follower.Client)
		var snapshot harness.Metadata
		event := nextEvent(t, stream, &snapshot)
		if event.Type != "snapshot" || event.ID != "" || len(snapshot.NodesMetadata) != 3 || snapshot.LeaderNodeID != leader.ID {
			t.Fatalf("first event = %+v, want a snapshot of 3 instances led by %s", event, leader.ID)
		}

		expect := func(kind string, i *harness.Instance) clusterEvent {
			t.Helper()
			var told clusterEvent
			event := nextEvent(t, stream, &told)
			if event.Type != kind || told.Type != kind || told.NodeID != i.ID || told.Term == 0 {
				t.Fatalf("event = %+v, want %s of %s", event, kind, i.ID)
			}
			return told
		}
		follower.Kill()
		expect("instance_unreachable", follower)
		follower.Start()
		expect("instance_reachable", follower)
		follower.AwaitReady()
		if err := leader.RaftRemove(t.Context(), follower.ID); err != nil {
			t.Fatal(err)
		}
		expect("instance_removed", follower)
		if err := leader.RaftAdd(t.Context(), follower.Member()); err != nil {
			t.Fatal(err)
		}
		// The instance joins as a nonvoter. It may be promoted before anybody looks.
		added := expect("instance_added", follower)
		if added.Suffrage == "nonvoter" {
			added = expect("instance_updated", follower)
		}
		if added.RaftAddress != follower.RaftAddress || added.Suffrage != "voter" {
			t.Errorf("added instance = %+v, want a voter at %s", added, follower.RaftAddress)
		}

		leader.BeginStop()
		checkEndsWithComment(t, stream)
		leader.AwaitStop()
		stream = followCluster(t, c.Running()[0].Client)
		if event := nextEvent(t, stream, &snapshot); event.Type != "snapshot" || snapshot.LeaderNodeID == leader.ID || snapshot.LeaderNodeID == "" {
			t.Errorf("first event after a change of leaders = %+v, want a snapshot with the new leader", event)
		}
	})
}

// checkEndsWithComment fails the test unless a stream ends with a comment, after any
// number of events.
func checkEndsWithComment(t *testing.T, stream *harness.Stream) {
	t.Helper()
	var last harness.Event
	for {
		event, err := stream.Next()
		if err != nil {
			break
		}
		last = event
	}
	if !last.IsComment || last.Comment == "" {
		t.Errorf("last event of the stream = %+v, want a comment", last)
	}
}

func followCluster(t *testing.T, through *harness.Client) *harness.Stream {
	t.Helper()
	stream, err := through.Stream(t.Context(), "/raft/metadata/sse", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stream.Close)
	return stream
}

func nextEvent(t *testing.T, stream *harness.Stream, target any) harness.Event {
	t.Helper()
	event, err := stream.Event()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(event.Data), target); err != nil {
		t.Fatalf("%v: %+v", err, event)
	}
	return event
}
