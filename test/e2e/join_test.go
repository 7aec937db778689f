package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestInstancesJoin(t *testing.T) {
	// The addresses are those of the instances n1, n2 and n3; n1 is bootstrapped.
	type flags func(addresses []string) []string
	tests := map[string]struct {
		n2, n3 flags
		// last says that n1 starts after the others.
		last bool
	}{
		"by a list with commas": {
			n2: func(a []string) []string { return []string{"--join=" + a[2] + "," + a[0]} },
			n3: func(a []string) []string { return []string{"--join=" + a[1] + "," + a[0]} },
		},
		"by a repeated flag": {
			n2: func(a []string) []string { return []string{"--join", a[2], "--join", a[0]} },
			n3: func(a []string) []string { return []string{"--join", a[1], "--join", a[0]} },
		},
		"through a follower": {
			n2: func(a []string) []string { return []string{"--join=" + a[0]} },
			n3: func(a []string) []string { return []string{"--join=" + a[1]} },
		},
		"before there is a cluster, by a list that names themselves": {
			n2:   func(a []string) []string { return []string{"--join=" + strings.Join(a, ",")} },
			n3:   func(a []string) []string { return []string{"--join=" + strings.Join(a, ",")} },
			last: true,
		},
	}
	for _, backend := range someBackends() {
		for name, test := range tests {
			t.Run(backend+" "+name, func(t *testing.T) {
				t.Parallel() // most of it is waiting
				c := harness.New(t, harness.Options{Backend: backend, Flags: calm})
				var addresses []string
				for _, i := range c.Instances {
					addresses = append(addresses, i.Application)
				}
				n1, n2, n3 := c.Instances[0], c.Instances[1], c.Instances[2]
				n1.Flags = append(n1.Flags, "--bootstrap_raft_cluster")
				n2.Flags = append(n2.Flags, test.n2(addresses)...)
				n3.Flags = append(n3.Flags, test.n3(addresses)...)
				if test.last {
					n2.Start()
					n3.Start()
					awaitLog(t, n3, "asked to join, without success so far")
					n1.Start()
				} else {
					n1.Start()
					n2.Start()
					n3.Start()
				}
				c.AwaitReady()
				checkMembers(t, c)
				put(t, n3.Client, "a")

				n3.Kill()
				n3.Start()
				n3.AwaitReady()
				if strings.Contains(n3.LastLog(), "asked to join") {
					t.Error("a member asked to join again")
				}
			})
		}
	}
}

func awaitLog(t *testing.T, i *harness.Instance, words string) {
	t.Helper()
	harness.Eventually(t, i.ID+" logs "+words, func() error {
		if !strings.Contains(i.LastLog(), words) {
			return fmt.Errorf("log =\n%s", i.LastLog())
		}
		return nil
	})
}

// checkMembers fails the test unless the cluster shows exactly the instances of c, as
// reachable voters at their addresses.
func checkMembers(t *testing.T, c *harness.Cluster) {
	t.Helper()
	// An instance that was just added may not be up to date yet.
	harness.Eventually(t, "all instances are members", func() error {
		metadata, err := c.Instances[0].Metadata(t.Context())
		if err != nil {
			return err
		}
		if len(metadata.NodesMetadata) != len(c.Instances) || metadata.ClusterID == "" || metadata.Term == 0 {
			return fmt.Errorf("the metadata is %+v", metadata)
		}
		for _, i := range c.Instances {
			got := metadata.NodesMetadata[i.ID]
			want := harness.InstanceMetadata{
				NodeID: i.ID, RaftAddress: i.RaftAddress, ApplicationAddress: i.Application,
				Suffrage: "voter", Reachable: true, Version: got.Version,
			}
			if got != want || got.Version == "" {
				return fmt.Errorf("%s is %+v, want %+v", i.ID, got, want)
			}
		}
		return nil
	})
}

func TestAnInstanceWaitsToBeAdded(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.New(t, harness.Options{Size: 2, Backend: backend, Flags: calm})
		first, second := c.Instances[0], c.Instances[1]
		first.Flags = append(first.Flags, "--bootstrap_raft_cluster")
		first.Start()
		first.AwaitReady()
		put(t, first.Client, "a")

		second.Start()
		awaitLog(t, second, "waits to be added")
		answer, err := second.Do(t.Context(), http.MethodGet, "/readyz", nil)
		if err != nil || answer.Status != http.StatusServiceUnavailable || !strings.Contains(string(answer.Body), "waits to be added") {
			t.Errorf(`readyz: %d %s %v, want 503 "waits to be added"`, answer.Status, answer.Body, err)
		}
		answer, err = second.Do(t.Context(), http.MethodGet, "/nodes", nil)
		if problem := problemOf(t, err); problem.Status != http.StatusServiceUnavailable || problem.Code != "no_leader" || answer.Header.Get("Retry-After") != "1" {
			t.Errorf("list of an instance without a cluster = %+v with %v, want 503 no_leader with Retry-After: 1", problem, answer.Header)
		}
		// The instance may be killed and restarted meanwhile.
		second.Kill()
		second.Start()

		for range 2 { // the second time changes nothing
			if err := first.RaftAdd(t.Context(), second.Member()); err != nil {
				t.Fatal(err)
			}
		}
		second.AwaitReady()
		checkMembers(t, c)
		if got := list(t, second.Client); got.Nodes["a"].ID != "a" {
			t.Errorf("list of the new member = %+v, want node a", got)
		}

		first.Stop()
		first.Start()
		awaitLog(t, first, "bootstrapping changes nothing")
		c.AwaitReady()
		checkMembers(t, c)
	})
}
