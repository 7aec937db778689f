package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Change is the data of an event of /nodes/sse.
type Change struct {
	Revision uint64 `json:"revision"`
	Type     string `json:"type"`
	Node     Node   `json:"node"`
	Previous *Node  `json:"previous"`
	Reason   string `json:"reason"`
}

// SnapshotPart is the data of a snapshot event of /nodes/sse.
type SnapshotPart struct {
	Revision uint64          `json:"revision"`
	Part     int             `json:"part"`
	Parts    int             `json:"parts"`
	Nodes    map[string]Node `json:"nodes"`
}

// Follower keeps a copy of the registry by following /nodes/sse. When a stream
// ends it goes on where it was, through the next of its clients. It is strict:
// what a stream may not do, it takes as the end of everything.
type Follower struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu        sync.Mutex
	registry  Registry
	snapshots int
	changes   []Change
	streams   int
	fault     error
}

// Follow starts to follow, until t ends or Stop.
func Follow(t testing.TB, clients ...*Client) *Follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.follow(ctx, clients)
	}()
	t.Cleanup(f.Stop)
	return f
}

// Stop ends the following and waits for that.
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
		case <-time.After(10 * time.Millisecond): // nobody may be there yet
		}
	}
}

// once follows one stream to its end, and gives the last id it had.
func (f *Follower) once(ctx context.Context, client *Client, lastID string) string {
	stream, err := client.Stream(ctx, "/nodes/sse", lastID)
	if err != nil {
		return lastID // the next one may be up
	}
	defer stream.Close()
	var reading reading
	f.mu.Lock()
	f.streams++
	f.mu.Unlock()
	for {
		event, err := stream.Event()
		if err != nil {
			return stream.LastID()
		}
		if err := f.take(event, &reading); err != nil {
			f.fail(fmt.Errorf("%w, from %s: %+v", err, stream.From, event))
			return lastID
		}
	}
}

// reading is a snapshot of which not all parts have come.
type reading struct {
	parts int
	nodes map[string]Node
}

func (f *Follower) take(event Event, r *reading) error {
	if event.Type == "snapshot" {
		return f.takePart(event, r)
	}
	if r.parts > 0 {
		return errors.New("a change in the middle of a snapshot")
	}
	var change Change
	if err := json.Unmarshal([]byte(event.Data), &change); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case event.ID != fmt.Sprint(change.Revision):
		return fmt.Errorf("the id is not the revision %d", change.Revision)
	case change.Type != event.Type:
		return fmt.Errorf("the event is not of the type %q", change.Type)
	case f.snapshots == 0:
		return errors.New("a change before there was a snapshot")
	case change.Revision != f.registry.Revision+1:
		return fmt.Errorf("revision %d follows on %d", change.Revision, f.registry.Revision)
	}
	if err := f.registry.apply(change); err != nil {
		return err
	}
	f.changes = append(f.changes, change)
	return nil
}

func (r *Registry) apply(change Change) error {
	known, there := r.Nodes[change.Node.ID]
	switch {
	case (change.Type == "added") == there:
		return fmt.Errorf("%s, and the node was there: %v", change.Type, there)
	case there != (change.Previous != nil) && change.Type != "removed":
		return fmt.Errorf("previous is %v, and the node was there: %v", change.Previous, there)
	case change.Previous != nil && known.Revision != change.Previous.Revision:
		return fmt.Errorf("previous is of revision %d, the known one of %d", change.Previous.Revision, known.Revision)
	}
	r.Revision = change.Revision
	if change.Type == "removed" {
		delete(r.Nodes, change.Node.ID)
	} else {
		r.Nodes[change.Node.ID] = change.Node
	}
	return nil
}

func (f *Follower) takePart(event Event, r *reading) error {
	var part SnapshotPart
	if err := json.Unmarshal([]byte(event.Data), &part); err != nil {
		return err
	}
	if part.Part != r.parts+1 || part.Parts < part.Part {
		return fmt.Errorf("part %d of %d follows on %d", part.Part, part.Parts, r.parts)
	}
	if r.nodes == nil {
		r.nodes = map[string]Node{}
	}
	for id, node := range part.Nodes {
		r.nodes[id] = node
	}
	r.parts = part.Part
	if part.Part < part.Parts {
		return nil
	}
	if event.ID != fmt.Sprint(part.Revision) {
		return fmt.Errorf("the id of the last part is not the revision %d", part.Revision)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.registry = Registry{Revision: part.Revision, Nodes: r.nodes}
	f.snapshots++
	*r = reading{}
	return nil
}

func (f *Follower) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = err
}

// Err is what a stream did that it may not do, if it did.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault
}

// Changes are all changes so far, those that snapshots stood for not among them.
func (f *Follower) Changes() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes[:len(f.changes):len(f.changes)]
}

// Counts gives how many streams were opened and how many snapshots came.
func (f *Follower) Counts() (streams, snapshots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams, f.snapshots
}

// Revision is how far the copy has come.
func (f *Follower) Revision() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.registry.Revision
}

// Registry is the copy. It may be used once the follower has been stopped.
func (f *Follower) Registry() Registry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.registry
}

// Await waits until the copy has come to revision.
func (f *Follower) Await(t testing.TB, revision uint64) {
	t.Helper()
	Eventually(t, fmt.Sprintf("the stream comes to revision %d", revision), func() error {
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		if got := f.Revision(); got < revision {
			return fmt.Errorf("it is at %d", got)
		}
		return nil
	})
}
