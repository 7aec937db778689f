package harness

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Follower keeps a copy of the registry by following /nodes/sse. When a stream
// ends, it resumes at the same position through the next of its clients. It is
// strict: it stops for good when a stream does what a stream must not do.
type Follower struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	copy    Copy
	streams int
	fault   error
}

// Follow starts a follower, which runs until t ends or Stop is called.
func Follow(t testing.TB, clients ...*Client) *Follower {
	t.Helper()
	return (&Follower{}).start(t, clients)
}

// FollowFiltered is Follow for the nodes that filter selects.
func FollowFiltered(t testing.TB, filter Filter, clients ...*Client) *Follower {
	t.Helper()
	filtering := make([]*Client, len(clients))
	for i, client := range clients {
		filtering[i] = client.With(filter.Query())
	}
	return (&Follower{copy: Copy{Filtered: true}}).start(t, filtering)
}

func (f *Follower) start(t testing.TB, clients []*Client) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.done = cancel, make(chan struct{})
	go func() {
		defer close(f.done)
		f.follow(ctx, clients)
	}()
	t.Cleanup(f.Stop)
	return f
}

// Stop ends the follower and waits until it has ended.
func (f *Follower) Stop() {
	f.cancel()
	<-f.done
}

func (f *Follower) follow(ctx context.Context, clients []*Client) {
	lastID := ""
	for turn := 0; ctx.Err() == nil; turn++ {
		lastID = f.once(ctx, clients[turn%len(clients)], lastID)
		if f.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond): // no instance may be up yet
		}
	}
}

// once follows one stream to its end, and returns the last id it received.
func (f *Follower) once(ctx context.Context, client *Client, lastID string) string {
	stream, err := client.Stream(ctx, "/nodes/sse", lastID)
	if err != nil {
		return lastID // the next instance may be up
	}
	defer stream.Close()
	f.mu.Lock()
	f.streams++
	f.copy.Reconnect()
	f.mu.Unlock()
	for {
		event, err := stream.Event()
		if err != nil {
			return stream.LastID()
		}
		if err := f.take(event); err != nil {
			f.fail(fmt.Errorf("%w, from %s: %+v", err, stream.From, event))
			return lastID
		}
	}
}

func (f *Follower) take(event Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.copy.Take(event)
	return err
}

func (f *Follower) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = err
}

// Err returns the violation that stopped the follower, if any.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault
}

// Changes returns all changes received, without those that a snapshot replaced.
func (f *Follower) Changes() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copy.Changes[:len(f.copy.Changes):len(f.copy.Changes)]
}

// Drain returns Changes and forgets them, for long runs.
func (f *Follower) Drain() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	changes := f.copy.Changes
	f.copy.Changes = nil
	return changes
}

// First returns the registry as the first snapshot had it.
func (f *Follower) First() Registry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copy.First
}

// Counts returns how many streams were opened and how many snapshots came.
func (f *Follower) Counts() (streams, snapshots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams, f.copy.Snapshots
}

// Revision returns the revision that the copy has reached.
func (f *Follower) Revision() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copy.Registry.Revision
}

// Registry returns the copy, which must not be used before Stop has returned.
func (f *Follower) Registry() Registry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.copy.Registry
}

// Await waits until the copy has reached revision.
func (f *Follower) Await(t testing.TB, revision uint64) {
	t.Helper()
	Eventually(t, fmt.Sprintf("the stream reaches revision %d", revision), func() error {
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		if got := f.Revision(); got < revision {
			return fmt.Errorf("the stream is at revision %d", got)
		}
		return nil
	})
}
