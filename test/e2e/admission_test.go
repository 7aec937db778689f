package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// refusedInstance fails the test unless err is a refusal to add an instance, with
// the given status and code.
func refusedInstance(t *testing.T, what string, err error, status int, code string) {
	t.Helper()
	var problem *harness.Problem
	if !errors.As(err, &problem) || problem.Status != status || problem.Code != code {
		t.Errorf("%s: error = %v, want %d %s", what, err, status, code)
	}
}

// awaitSuffrage waits until the cluster shows an instance with the given suffrage
// and reachability.
func awaitSuffrage(t *testing.T, through *harness.Client, id, suffrage string, reachable bool) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%s is a %s", id, suffrage), func() error {
		metadata, err := through.Metadata(t.Context())
		if now := metadata.NodesMetadata[id]; err == nil && (now.Suffrage != suffrage || now.Reachable != reachable) {
			err = fmt.Errorf("member %s = %+v", id, now)
		}
		return err
	})
}

// A typo in an address must not cost a cluster its majority, least of all a cluster
// of one instance, whether the call is forced or not.
func TestATypoInAnAddressDoesNotCostTheMajority(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Size: 1, Backend: backend, Flags: calm})
		alone := c.Instances[0]
		term := metadata(t, alone.Client).Term
		silent := harness.Address(t, "127.0.0.1")
		for what, member := range map[string]harness.Member{
			"a voter":                       {ID: "n2", Address: silent},
			"a nonvoter":                    {ID: "n2", Address: silent, Suffrage: "nonvoter"},
			"the application port":          {ID: "n2", Address: alone.Application},
			"a name that does not resolve":  {ID: "n2", Address: "nobody.invalid:8008"},
			"the instance itself elsewhere": {ID: alone.ID, Address: silent},
		} {
			began := time.Now()
			refusedInstance(t, what, alone.RaftAdd(t.Context(), member), http.StatusUnprocessableEntity, "instance_unreachable")
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%s: refused after %v, want at most 3s", what, took)
			}
		}
		refusedInstance(t, "its own address under another id", alone.RaftAdd(t.Context(), harness.Member{ID: "n2", Address: alone.RaftAddress}),
			http.StatusConflict, "address_in_use")
		refusedInstance(t, "its own port by another name under another id", alone.RaftAdd(t.Context(), harness.Member{ID: "n2", Address: strings.Replace(alone.RaftAddress, "127.0.0.1", "localhost", 1)}),
			http.StatusConflict, "id_mismatch")
		put(t, alone.Client, "after-the-refusals")

		now, err := alone.RaftForce(t.Context(), harness.Member{ID: "n2", Address: silent})
		if err != nil || now.Suffrage != "nonvoter" {
			t.Fatalf("forced add = %+v, %v, want a nonvoter", now, err)
		}
		for n := range 20 {
			put(t, alone.Client, fmt.Sprintf("forced-%d", n))
		}
		// A restart does not need the unreachable nonvoter either.
		alone.Kill()
		alone.Start()
		alone.AwaitReady()
		put(t, alone.Client, "after-a-crash")
		awaitSuffrage(t, alone.Client, "n2", "nonvoter", false)
		if err := alone.RaftRemove(t.Context(), "n2"); err != nil {
			t.Error(err)
		}
		put(t, alone.Client, "after-the-removal")
		if members := metadata(t, alone.Client).NodesMetadata; len(members) != 1 {
			t.Errorf("members after the removal = %+v, want only %s", members, alone.ID)
		}
		checkDense(t, alone.Client)
		t.Logf("the term was %d, and is %d after a crash", term, metadata(t, alone.Client).Term)
	})
}

// Whatever is called, neither cluster takes an instance of the other, and both go on.
func TestClustersBootstrappedApartStayApart(t *testing.T) {
	t.Parallel() // see calm
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.New(t, harness.Options{Size: 2, Backend: backend, Flags: calm})
		first, second := c.Instances[0], c.Instances[1]
		for _, i := range c.Instances {
			i.Flags = append(i.Flags, "--bootstrap_raft_cluster")
			i.Start()
			i.AwaitReady()
			put(t, i.Client, "of-"+i.ID)
		}
		clusters := []string{metadata(t, first.Client).ClusterID, metadata(t, second.Client).ClusterID}
		goOn := func(when string) {
			t.Helper()
			for n, i := range c.Instances {
				put(t, i.Client, when)
				if got := metadata(t, i.Client); got.ClusterID != clusters[n] || got.LeaderNodeID != i.ID || got.NodesMetadata[i.ID].Suffrage != "voter" {
					t.Errorf("%s: metadata of %s = %+v, want cluster %s led by %s, a voter", when, i.ID, got, clusters[n], i.ID)
				}
				if nodes := list(t, i.Client).Nodes; nodes["of-"+i.ID].ID == "" || nodes["of-"+c.Instances[1-n].ID].ID != "" {
					t.Errorf("%s: nodes of %s = %v, want its own and none of the other cluster", when, i.ID, nodes)
				}
			}
		}
		for n, i := range c.Instances {
			other := c.Instances[1-n].Member()
			refusedInstance(t, "a voter", i.RaftAdd(t.Context(), other), http.StatusConflict, "other_cluster")
			other.Suffrage = "nonvoter"
			refusedInstance(t, "a nonvoter", i.RaftAdd(t.Context(), other), http.StatusConflict, "other_cluster")
			refusedInstance(t, "its own id", i.RaftAdd(t.Context(), harness.Member{ID: i.ID, Address: other.Address}), http.StatusConflict, "id_mismatch")
		}
		goOn("refused")

		for n, i := range c.Instances {
			now, err := i.RaftForce(t.Context(), c.Instances[1-n].Member())
			if err != nil || now.Suffrage != "nonvoter" {
				t.Errorf("forced add = %+v, %v, want a nonvoter", now, err)
			}
		}
		goOn("forced")
		for _, i := range c.Instances {
			i.Stop()
			i.Start()
			i.AwaitReady()
		}
		goOn("restarted")
		for n, i := range c.Instances {
			if err := i.RaftRemove(t.Context(), c.Instances[1-n].ID); err != nil {
				t.Error(err)
			}
		}

		// The second instance asks to join by itself. It asks only because it has moved.
		second.Stop()
		second.Flags = slices.DeleteFunc(second.Flags, func(flag string) bool { return flag == "--bootstrap_raft_cluster" })
		second.Flags = append(second.Flags, "--join="+first.Application)
		second.RaftBind = harness.Address(t, "127.0.0.1")
		second.RaftAddress = second.RaftBind
		second.Start()
		second.AwaitReady()
		awaitLog(t, second, "other_cluster")
		goOn("joining")
		for _, i := range c.Instances {
			checkDense(t, i.Client)
		}
	})
}

// The same command line serves for the first start, for a restart, and for one more
// instance. Its list names all of them.
func TestOneCommandLineServesAllInstances(t *testing.T) {
	t.Parallel() // see calm
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.New(t, harness.Options{Size: 4, Backend: backend, Flags: calm})
		var list []string
		for _, i := range c.Instances {
			list = append(list, i.Application)
		}
		for n, i := range c.Instances {
			if n == 0 {
				i.Flags = append(i.Flags, "--bootstrap_raft_cluster")
			} else {
				i.Flags = append(i.Flags, "--join="+strings.Join(list, ","))
			}
		}
		first, last := c.Instances[:3], c.Instances[3]
		for _, i := range first {
			i.Launch()
		}
		for _, i := range first {
			i.AwaitReady()
		}
		for _, i := range first {
			awaitSuffrage(t, first[0].Client, i.ID, "voter", true)
		}
		put(t, first[1].Client, "a")
		// All restart at once, and the first uses the command line of the others.
		first[0].Flags = slices.Clone(first[1].Flags)
		for _, i := range first {
			i.Stop()
		}
		for _, i := range first {
			i.Launch()
		}
		for _, i := range first {
			i.AwaitReady()
			if strings.Contains(i.LastLog(), "asked to join") {
				t.Errorf("%s asked to join again", i.ID)
			}
		}
		put(t, first[2].Client, "b")
		last.Start()
		last.AwaitReady()
		awaitSuffrage(t, first[0].Client, last.ID, "voter", true)
		if strings.Contains(last.LastLog(), last.Application+" error") || strings.Contains(last.LastLog(), "through="+last.Application) {
			t.Errorf("%s asked itself to join, want it to skip its own address", last.ID)
		}
		checkMembers(t, c)
		put(t, last.Client, "c")
		checkDense(t, last.Client)
	})
}

func TestAnInstanceMovesByJoining(t *testing.T) {
	t.Parallel() // see calm
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: calm})
		moving := c.Followers()[0]
		join := "--join="
		for _, i := range c.Instances {
			join += i.Application + ","
		}
		moving.Flags = append(moving.Flags, strings.TrimSuffix(join, ","))
		move := func(i *harness.Instance) {
			i.Stop()
			i.RaftBind = harness.Address(t, "127.0.0.1")
			i.RaftAddress = i.RaftBind
			i.Start()
			i.AwaitReady()
		}
		put(t, moving.Client, "before")
		move(moving)
		checkMembers(t, c)
		put(t, moving.Client, "moved")
		// The moved instance is a voter: without it there would be no majority.
		other := slices.DeleteFunc(c.Followers(), func(i *harness.Instance) bool { return i == moving })[0]
		other.Kill()
		put(t, moving.Client, "counted")
		other.Start()
		other.AwaitReady()

		// The leader can move as well. It no longer leads when it is back.
		leader := c.Leader()
		if leader != moving {
			leader.Flags = append(slices.DeleteFunc(slices.Clone(leader.Flags), func(flag string) bool { return flag == "--bootstrap_raft_cluster" }),
				strings.TrimSuffix(join, ","))
		}
		move(leader)
		checkMembers(t, c)
		put(t, leader.Client, "leader-moved")
		checkDense(t, leader.Client)
	})
}

// Two machines that are copies of each other have the same id. The one that is a
// member stays the member as long as it answers.
func TestASecondProcessDoesNotTakeTheIDOfAMember(t *testing.T) {
	t.Parallel() // see calm
	c := harness.New(t, harness.Options{Size: 4, Flags: calm})
	second := c.Instances[3]
	c.Instances = c.Instances[:3]
	c.Bootstrap()
	first := c.Followers()[0]
	second.ID = first.ID
	joins(c, second)
	second.Start()
	awaitLog(t, second, "id_in_use")
	refusedInstance(t, "adding the second process under the same id", first.RaftAdd(t.Context(), second.Member()), http.StatusConflict, "id_in_use")
	checkMembers(t, c)
	put(t, first.Client, "by-the-first")

	first.Kill()
	second.AwaitReady()
	awaitSuffrage(t, second.Client, second.ID, "voter", true)
	c.Instances = append(slices.DeleteFunc(c.Instances, func(i *harness.Instance) bool { return i == first }), second)
	checkMembers(t, c)
	checkDense(t, second.Client)
}

// An instance that is alone and joins its own old address admits itself.
func TestAnInstanceThatIsAloneMovesByJoiningItself(t *testing.T) {
	c := harness.Start(t, harness.Options{Size: 1, Flags: calm})
	alone := c.Instances[0]
	put(t, alone.Client, "before")
	alone.Stop()
	alone.Flags = append(slices.DeleteFunc(alone.Flags, func(flag string) bool { return flag == "--bootstrap_raft_cluster" }), "--join="+alone.Application)
	alone.RaftBind = harness.Address(t, "127.0.0.1")
	alone.RaftAddress = alone.RaftBind
	alone.Start()
	alone.AwaitReady()
	checkMembers(t, c)
	put(t, alone.Client, "after")
	checkDense(t, alone.Client)
}

func TestTheLeaderDiesWhileAnInstanceJoins(t *testing.T) {
	t.Run("while the joining instance is certainly a nonvoter", func(t *testing.T) {
		anyBackend(t, func(t *testing.T, backend string) {
			c := harness.New(t, harness.Options{Size: 4, Backend: backend})
			last := c.Instances[3]
			c.Instances = c.Instances[:3]
			c.Bootstrap()
			leader := c.Leader()
			// The instance is not running, so it stays a nonvoter as long as this leader lives.
			if now, err := leader.RaftForce(t.Context(), last.Member()); err != nil || now.Suffrage != "nonvoter" {
				t.Fatalf("RaftForce of an instance that is down = %+v, %v, want a nonvoter", now, err)
			}
			put(t, leader.Client, "a")
			leader.Kill()
			last.Start()
			last.AwaitReady()
			awaitSuffrage(t, last.Client, last.ID, "voter", true)
			put(t, last.Client, "b")
			leader.Start()
			leader.AwaitReady()
			c.Instances = append(c.Instances, last)
			checkMembers(t, c)
			checkDense(t, last.Client)
		})
	})
	t.Run("as soon as the joining instance is a member", func(t *testing.T) {
		anyBackend(t, func(t *testing.T, backend string) {
			c := harness.New(t, harness.Options{Size: 4, Backend: backend})
			last := c.Instances[3]
			c.Instances = c.Instances[:3]
			c.Bootstrap()
			leader := c.Leader()
			last.Flags = append(last.Flags, "--join="+c.Instances[0].Application+","+c.Instances[1].Application+","+c.Instances[2].Application)
			last.Launch()
			var then string
			harness.Eventually(t, "the new instance is a member", func() error {
				metadata, err := leader.Metadata(t.Context())
				if then = metadata.NodesMetadata[last.ID].Suffrage; err == nil && then == "" {
					err = errors.New("it is not a member yet")
				}
				return err
			})
			leader.Kill()
			t.Logf("the leader was killed when the new instance was a %s", then)
			last.AwaitServing()
			last.AwaitReady()
			awaitSuffrage(t, last.Client, last.ID, "voter", true)
			put(t, last.Client, "b")
		})
	})
}

// Leadership is handed round while writers write. The test measures the longest time
// without an acknowledged write.
func TestLeadershipGoesToTheChosenInstance(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := start(t, backend)
		load := startLoad(t, 4, c.Clients())
		load.awaitMore(t, 100)
		var gaps, calls []time.Duration
		for n := range 9 {
			to := c.Instances[n%3]
			load.startGap()
			began := time.Now()
			leads, err := c.Instances[(n+1)%3].RaftHandOver(t.Context(), to.ID)
			if err != nil {
				t.Fatalf("hand over to %s: %v", to.ID, err)
			}
			calls = append(calls, time.Since(began).Round(100*time.Microsecond))
			if leads != to.ID {
				t.Errorf("leader after the hand-over = %s, want %s", leads, to.ID)
			}
			load.awaitMore(t, 100)
			gaps = append(gaps, load.longestGap().Round(100*time.Microsecond))
		}
		load.end()
		t.Logf("the calls took %v; the longest times without an acknowledged write were %v", calls, gaps)
		if longest := slices.Max(gaps); longest > 2*time.Second {
			t.Errorf("longest time without an acknowledged write = %v, want at most 2s", longest)
		}
		through := c.Instances[0].Client
		if leads, err := through.RaftHandOver(t.Context(), ""); err != nil || leads == c.Instances[2].ID || leads == "" {
			t.Errorf("leader after a hand-over to any instance = %q, %v, want one other than %s", leads, err, c.Instances[2].ID)
		}
		c.AwaitReady() // wait until all know the leader
		_, err := through.RaftHandOver(t.Context(), "nobody")
		refusedInstance(t, "a hand-over to an unknown instance", err, http.StatusNotFound, "instance_not_found")
		registry := list(t, through)
		load.check(t, history(t, through, 0, registry.Revision))
	})
}

// Leadership that no other voter can take over stays with the leader, and writes go on.
func TestLeadershipStaysWhenTheChosenInstanceDoesNotAnswer(t *testing.T) {
	for name, end := range map[string]func(*harness.Instance){
		"killed": (*harness.Instance).Kill,
		"paused": (*harness.Instance).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			anyBackend(t, func(t *testing.T, backend string) {
				c := startCalm(t, backend)
				leader, gone := c.Leader(), c.Followers()[0]
				put(t, leader.Client, "before")
				end(gone)
				put(t, leader.Client, "missed")
				// A hand-over that fails leaves raft as it was.
				for range 3 {
					began := time.Now()
					_, err := leader.RaftHandOver(t.Context(), gone.ID)
					took := time.Since(began)
					refusedInstance(t, "a hand-over to an instance that does not answer", err, http.StatusServiceUnavailable, "no_successor")
					without := harness.Within(t, 10*time.Second, "a write", func() error {
						_, err := leader.Put(t.Context(), harness.NewNode("after"))
						return err
					})
					t.Logf("the hand-over was refused after %v, and a write succeeded %v later", took.Round(time.Millisecond), without.Round(time.Millisecond))
				}
				if now := c.Leader(); now != leader {
					t.Errorf("leader = %s, want %s", now.ID, leader.ID)
				}
			})
		})
	}
}
