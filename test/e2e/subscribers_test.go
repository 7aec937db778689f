package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	// subscribers is the number of subscribers that come and go.
	subscribers = 200
	// stay is how long a subscriber stays each time. With shorter stays, the
	// machine would mostly open connections.
	stay = time.Second
	// window is how long a rate is measured.
	window = 2 * time.Second
	// slack is the tolerated difference in the number of goroutines of a process at rest.
	slack = 15
)

func TestSubscribersHoldUpNobody(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: calm, Build: harness.Build{Plain: true}})
		leader := c.Leader()
		canary := startCanary(t, c)
		canary.await(t, 100)
		alone := canary.rate(t)
		goroutines := atRest(t, leader)
		memory := watchMemory(t, c)

		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range subscribers {
			all.Go(func() { comeAndGo(ctx, t, leader.Application) })
		}
		crowded := canary.rate(t)
		cancel()
		all.Wait()
		after := canary.rate(t)
		t.Logf("calls in a second: %.0f alone, %.0f with %d subscribers that come and go, %.0f after that",
			alone, crowded, subscribers, after)
		// Subscribers take their share of the processor, so the rates prove
		// nothing. But a canary's call would fail if a subscriber held it up.
		canary.check(t)
		memory.check(t)
		harness.Eventually(t, "the process has as many goroutines as before", func() error {
			if now := atRest(t, leader); now > goroutines+slack {
				return fmt.Errorf("goroutines = %.0f, want %.0f as before", now, goroutines)
			}
			return nil
		})
		checkDense(t, leader.Client)
	})
}

const (
	// neverReading is the number of subscribers that never read.
	neverReading = 20
	// unread is more bytes than the socket of such a subscriber takes.
	unread = 12 << 20
	// shared is more than the memory that all subscribers together share for these
	// changes, as history and encoded. A queue for each would take neverReading
	// times unread.
	shared = 10 * unread
)

func TestSubscribersThatNeverReadHoldUpNobody(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: calm, Build: harness.Build{Plain: true}})
		leader := c.Leader()
		follower := harness.Follow(t, leader.Client)
		alone := writeLarge(t, leader.Client, unread)
		live := liveHeap(t, leader)
		var silent []net.Conn
		for range neverReading {
			silent = append(silent, neverRead(t, leader.Application))
		}
		beside := writeLarge(t, leader.Client, unread)
		t.Logf("bytes in a second: %.1f MiB alone, %.1f MiB beside subscribers that never read", alone.rate(), beside.rate())
		after := liveHeap(t, leader)
		t.Logf("memory in use: %.1f MiB before, %.1f MiB after", live, after)
		if after > live+shared>>20 {
			t.Errorf("memory in use with subscribers that never read = %.1f MiB, want at most %.1f MiB", after, live+shared>>20)
		}
		follower.Await(t, uint64(alone.writes+beside.writes))
		follower.Stop()
		sameRegistry(t, "the copy of another subscriber", follower.Registry(), list(t, leader.Client))
		for _, conn := range silent {
			checkStalled(t, conn)
		}
	})
}

// liveHeap returns the memory, in MiB, that was in use after the last garbage
// collection. The process may allocate as much again before the next one.
func liveHeap(t *testing.T, i *harness.Instance) float64 {
	t.Helper()
	metrics, err := i.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return metrics["go_memstats_next_gc_bytes"] / 2 / (1 << 20)
}

// atRest returns the number of goroutines that the process reports.
func atRest(t *testing.T, i *harness.Instance) float64 {
	t.Helper()
	metrics, err := i.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return metrics["go_goroutines"]
}

// neverRead opens a stream and reads nothing from it.
func neverRead(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	dialed, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn := dialed.(*net.TCPConn) // the network "tcp" always gives a TCPConn
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /nodes/sse HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return conn
}

// checkStalled fails the test unless conn has received the beginning of a stream.
func checkStalled(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	beginning := make([]byte, 12)
	if _, err := io.ReadFull(conn, beginning); err != nil || string(beginning) != "HTTP/1.1 200" {
		t.Errorf("beginning of a stream that was never read = %q, %v, want HTTP/1.1 200", beginning, err)
	}
}

// comeAndGo subscribes, stays for a moment, leaves, and repeats.
func comeAndGo(ctx context.Context, t *testing.T, address string) {
	for ctx.Err() == nil {
		if err := visit(ctx, address); err != nil && ctx.Err() == nil {
			t.Errorf("a subscriber failed: %v", err)
			return
		}
	}
}

// visit reads from a stream for a while without parsing: for two hundred
// subscribers that would keep this process busier than the one under test.
func visit(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	unbind := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer unbind()
	if _, err := io.WriteString(conn, "GET /nodes/sse HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return fmt.Errorf("the stream did not begin: %w", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(stay))
	got, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("the stream ended after %d bytes: %w", got+1, err)
}

// volume is the number of writes and bytes that were written in a time.
type volume struct {
	writes, bytes int
	took          time.Duration
}

func (v volume) rate() float64 { return float64(v.bytes) / (1 << 20) / v.took.Seconds() }

// maxWrite is how long a large write may take on a busy machine. A write that
// waited for a subscriber would take for ever, or 30 s, after which the subscriber
// is disconnected.
const maxWrite = 8 * time.Second

// writeLarge makes changes by several writers, until their events have the given number of bytes.
func writeLarge(t *testing.T, through *harness.Client, bytes int) volume {
	t.Helper()
	const writers = 8
	const event = 2 * 32 * 256 // with the node before and after the change
	labels := map[string]string{}
	for n := range 32 {
		labels[fmt.Sprintf("label-%02d", n)] = strings.Repeat("x", 256)
	}
	began := time.Now()
	each := bytes / event / writers
	errs := make(chan error, writers)
	for n := range writers {
		go func() {
			node := harness.NewNode(fmt.Sprintf("large-%d", n))
			node.Labels = labels
			for m := range each {
				node.Zone = fmt.Sprint(began.UnixNano(), m)
				ctx, cancel := context.WithTimeout(t.Context(), maxWrite)
				_, err := through.Put(ctx, node)
				cancel()
				if err != nil {
					errs <- fmt.Errorf("a large write: %w", err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return volume{each * writers, each * writers * event, time.Since(began)}
}

// The stacks of streams grow when the streams are opened, one at a time, and not
// all together at the first change: with ten thousand streams that kept a leader
// The stacks of streams must grow when the streams are opened, one at a time, and
// not all together at the first change: with ten thousand streams, that kept a
// leader from sending heartbeats for longer than its lease.
func TestAChangeDoesNotGrowTheStacksOfManyStreams(t *testing.T) {
	const many, each = 400, 1 << 10 // a stack that grows takes at least 2 KiB more
	c := harness.Start(t, harness.Options{Size: 1, Build: harness.Build{Plain: true}})
	i := c.Instances[0]
	for _, begin := range []string{"with a snapshot", "with a position"} {
		t.Run(begin, func(t *testing.T) {
			from, position := list(t, i.Client).Revision, ""
			if begin == "with a position" {
				position = fmt.Sprint(from)
			}
			streams := make([]*harness.Stream, many)
			for n := range streams {
				stream, err := i.Stream(t.Context(), "/nodes/sse", position)
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				if position == "" {
					if event, err := stream.Event(); err != nil || event.Type != "snapshot" {
						t.Fatalf("first event = %+v, %v, want a snapshot", event, err)
					}
				}
				streams[n] = stream
			}
			before, known := metric(t, i, "go_memstats_stack_inuse_bytes")
			put(t, i.Client, fmt.Sprintf("node-%d", from))
			for _, stream := range streams {
				if event, err := stream.Event(); err != nil || event.ID != fmt.Sprint(from+1) {
					t.Fatalf("next event = %+v, %v, want the change at revision %d", event, err, from+1)
				}
			}
			after, _ := metric(t, i, "go_memstats_stack_inuse_bytes")
			t.Logf("the stacks take %.0f KiB, and %.0f KiB after a change", before/1024, after/1024)
			if !known || after-before > many*each {
				t.Errorf("the stacks of %d streams grew by %.0f KiB at a change, want at most %d KiB", many, (after-before)/1024, many*each/1024)
			}
		})
	}
}
