package e2e_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// maxGap is far more than a hand-over takes, and less than it takes to notice that
// a leader is gone.
const maxGap = time.Second

func TestALeaderHandsOverWhenItIsStopped(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Build: harness.Build{Plain: true}})
		put(t, c.Instances[0].Client, "a")
		for range 3 {
			leader := c.Leader()
			gap := gapOf(t, c, leader, func() {
				leader.Stop()
			})
			t.Logf("longest time without a write while the leader stopped: %v", gap.Round(time.Millisecond))
			if gap > maxGap {
				t.Errorf("longest time without a write while the leader stopped = %v, want at most %v", gap, maxGap)
			}
			if !strings.Contains(leader.LastLog(), "leadership was handed over") {
				t.Errorf("the leader did not hand over:\n%s", leader.LastLog())
			}
			leader.Start()
			leader.AwaitReady()
		}
		checkDense(t, c.Instances[0].Client)
	})
}

// gapOf calls while as one writer writes as fast as it can through the instances
// other than but, and returns the longest time between two acknowledged writes.
func gapOf(t *testing.T, c *harness.Cluster, but *harness.Instance, while func()) time.Duration {
	t.Helper()
	var clients []*harness.Client
	for _, i := range c.Running() {
		if i != but {
			clients = append(clients, i.Client)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gaps := make(chan time.Duration)
	acked := make(chan struct{}, 1)
	go func() {
		var longest time.Duration
		last := time.Now()
		for n := 0; ctx.Err() == nil; n++ {
			node := harness.NewNode("tight")
			node.Zone = fmt.Sprint(last.UnixNano(), n)
			attempt, done := context.WithTimeout(ctx, time.Second)
			_, err := clients[n%len(clients)].Put(attempt, node)
			done()
			if err == nil {
				longest = max(longest, time.Since(last))
				last = time.Now()
				select {
				case acked <- struct{}{}:
				default:
				}
			}
		}
		gaps <- longest
	}()
	// A write is acknowledged before and after while.
	<-acked
	while()
	select {
	case <-acked: // drops a token from before the end of while
	default:
	}
	for range 3 {
		select {
		case <-acked:
		case <-time.After(harness.Patience):
			t.Fatal("no write is acknowledged any more")
		}
	}
	cancel()
	return <-gaps
}

func TestALeaderStandsDownWhenItsFollowersStop(t *testing.T) {
	t.Parallel() // see calm
	eachBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		put(t, c.Instances[0].Client, "a")
		leader, followers := c.Leader(), c.Followers()
		for _, follower := range followers {
			follower.BeginStop()
		}
		for _, follower := range followers {
			follower.AwaitStop()
		}
		harness.Eventually(t, "a leader without a majority stands down", func() error {
			_, err := leader.Put(t.Context(), harness.NewNode("b"))
			if harness.OutcomeOf(err) != harness.NotDone || problemOf(t, err).Code != "no_leader" {
				return fmt.Errorf("error of a put = %v, want no_leader", err)
			}
			return nil
		})
		// The instance stops cleanly even without a majority.
		leader.Stop()
		for _, i := range c.Instances {
			i.Start()
		}
		c.AwaitReady()
		if _, err := c.Instances[1].Get(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		checkDense(t, c.Instances[2].Client)
	})
}

// beginRequest sends i a request without its body, and returns once i handles the
// request. The connection is closed when the test ends.
func beginRequest(t *testing.T, i *harness.Instance) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", i.Application)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "PUT /nodes/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// The server asks for the body when it starts handling the request.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Size: 1, Backend: backend})
		i := c.Instances[0]
		// The instance finishes requests in flight first, so it waits for the rest of this one.
		beginRequest(t, i)
		i.BeginStop()
		awaitLog(t, i, "instance is stopping")
		if !i.Running() {
			t.Error("the instance ended without waiting for a request in flight")
		}
		began := time.Now()
		i.Signal(syscall.SIGTERM)
		if status, want := i.AwaitExit(), 128+int(syscall.SIGTERM); status != want {
			t.Errorf("exit status = %d, want %d", status, want)
		}
		if strings.Contains(i.LastLog(), "%!") {
			t.Errorf("the log contains a format error:\n%s", i.LastLog())
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the second signal took %v, want at most 2s", took)
		}
		i.Start()
		i.AwaitReady()
	})
}

// Anybody can send half a request, so half a request must neither delay a stop nor
// make it fail.
func TestHalfARequestDoesNotHoldUpAStop(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Size: 1, Backend: backend})
		i := c.Instances[0]
		conn := beginRequest(t, i)
		if _, err := io.WriteString(conn, "{"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		i.Stop()
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the stop took %v, want at most 4s", took)
		}
		if answer, err := io.ReadAll(conn); !strings.Contains(string(answer), "shutting_down") {
			t.Errorf("answer to half a request = %q, %v, want shutting_down", answer, err)
		}
	})
}

// A client that waits for a change at a leader that hands over is redirected to the
// new leader, instead of being told that nothing has changed.
func TestALongPollIsRedirectedToTheNextLeader(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := startCalm(t, backend)
		put(t, c.Instances[0].Client, "a")
		leader := c.Leader()
		sent := make(chan struct{})
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
		})
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+leader.Application+"/nodes?since=1&wait=30s", nil)
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan *http.Response, 1)
		go func() {
			response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
			if err != nil {
				t.Error(err)
			}
			answered <- response
		}()
		<-sent
		next, err := leader.RaftHandOver(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		response := <-answered
		if response == nil {
			return
		}
		_ = response.Body.Close()
		at := slices.IndexFunc(c.Instances, func(i *harness.Instance) bool { return i.ID == next })
		if at < 0 {
			t.Fatalf("leadership went to %q, which is no instance of the cluster", next)
		}
		if want := "http://" + c.Instances[at].Application + "/nodes?since=1&wait=30s"; response.StatusCode != 307 || response.Header.Get("Location") != want {
			t.Errorf("answer = %s to %q, want 307 to %q", response.Status, response.Header.Get("Location"), want)
		}
	})
}

// kills is how often a leader is killed to measure how long its replacement takes.
const kills = 5

func TestALeaderIsReplacedWithinASecond(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Build: harness.Build{Plain: true}})
		put(t, c.Instances[0].Client, "a")
		var times []time.Duration
		for range kills {
			leader := c.Leader()
			gap := gapOf(t, c, leader, leader.Kill)
			times = append(times, gap.Round(time.Millisecond))
			leader.Start()
			c.AwaitReady()
		}
		t.Logf("from the kill to the first acknowledged write: %v, median %v", times, median(times))
		if median(times) > maxReplacement {
			t.Errorf("median time to replace a leader = %v, want at most %v", median(times), maxReplacement)
		}
	})
}

// maxReplacement is the promised median.
const maxReplacement = time.Second

func median[T cmp.Ordered](times []T) T {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}
