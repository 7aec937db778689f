package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"
)

// Change is the data of an event of /nodes/sse.
type Change struct {
	Revision uint64 `json:"revision"`
	Type     string `json:"type"`
	Node     Node   `json:"node"`
	Previous *Node  `json:"previous"`
	Reason   string `json:"reason"`
	// At is when a Follower received the change.
	At time.Time `json:"-"`
}

// SnapshotPart is the data of a snapshot event of /nodes/sse.
type SnapshotPart struct {
	Revision uint64          `json:"revision"`
	Part     int             `json:"part"`
	Parts    int             `json:"parts"`
	Nodes    map[string]Node `json:"nodes"`
}

// Copy builds the registry from the events of one stream of /nodes/sse after the
// other. It is strict: it refuses everything that a stream must not do.
type Copy struct {
	// Filtered says that the stream is filtered, so changes of other nodes may be missing.
	Filtered bool
	Registry Registry
	// First is the first snapshot.
	First Registry
	// Snapshots is the number of snapshots, and Changes are all changes received,
	// without those that a snapshot replaced.
	Snapshots int
	Changes   []Change

	// The parts received of an incomplete snapshot.
	parts int
	nodes map[string]Node
}

// Reconnect prepares for another stream: it drops an incomplete snapshot.
func (c *Copy) Reconnect() { c.parts, c.nodes = 0, nil }

// Take applies an event. It reports whether the event changed the copy: only the last
// part of a snapshot does.
func (c *Copy) Take(event Event) (bool, error) {
	if event.Type == "snapshot" {
		return c.takePart(event)
	}
	if c.parts > 0 {
		return false, errors.New("a change in the middle of a snapshot")
	}
	change := Change{At: time.Now()}
	if err := json.Unmarshal([]byte(event.Data), &change); err != nil {
		return false, err
	}
	switch {
	case event.ID != fmt.Sprint(change.Revision):
		return false, fmt.Errorf("the id is not the revision %d", change.Revision)
	case change.Type != event.Type:
		return false, fmt.Errorf("the event is not of the type %q", change.Type)
	case c.Snapshots == 0:
		return false, errors.New("a change before there was a snapshot")
	case change.Revision <= c.Registry.Revision, change.Revision != c.Registry.Revision+1 && !c.Filtered:
		return false, fmt.Errorf("revision %d follows on %d", change.Revision, c.Registry.Revision)
	}
	if err := c.Registry.apply(change); err != nil {
		return false, err
	}
	c.Changes = append(c.Changes, change)
	return true, nil
}

func (c *Copy) takePart(event Event) (bool, error) {
	var part SnapshotPart
	if err := json.Unmarshal([]byte(event.Data), &part); err != nil {
		return false, err
	}
	if part.Part != c.parts+1 || part.Parts < part.Part {
		return false, fmt.Errorf("part %d of %d follows on %d", part.Part, part.Parts, c.parts)
	}
	if c.nodes == nil {
		c.nodes = map[string]Node{}
	}
	maps.Copy(c.nodes, part.Nodes)
	c.parts = part.Part
	if part.Part < part.Parts {
		return false, nil
	}
	switch {
	case event.ID != fmt.Sprint(part.Revision):
		return false, fmt.Errorf("the id of the last part is not the revision %d", part.Revision)
	case part.Revision < c.Registry.Revision:
		return false, fmt.Errorf("a snapshot goes back to revision %d from %d", part.Revision, c.Registry.Revision)
	}
	c.Registry = Registry{Revision: part.Revision, Nodes: c.nodes}
	if c.Snapshots++; c.Snapshots == 1 {
		c.First = Registry{Revision: part.Revision, Nodes: maps.Clone(c.nodes)}
	}
	c.Reconnect()
	return true, nil
}

func (r *Registry) apply(change Change) error {
	known, there := r.Nodes[change.Node.ID]
	switch {
	case (change.Type == "added") == there:
		return fmt.Errorf("%s, and the node was there: %v", change.Type, there)
	case there != (change.Previous != nil) && change.Type != "removed":
		return fmt.Errorf("previous is %v, and the node was there: %v", change.Previous, there)
	case change.Previous != nil && !reflect.DeepEqual(*change.Previous, known):
		return fmt.Errorf("previous is %+v, the known node %+v", *change.Previous, known)
	case change.Type == "removed" && !reflect.DeepEqual(change.Node, known):
		return fmt.Errorf("removed is %+v, the known node is %+v", change.Node, known)
	}
	r.Revision = change.Revision
	if change.Type == "removed" {
		delete(r.Nodes, change.Node.ID)
	} else {
		r.Nodes[change.Node.ID] = change.Node
	}
	return nil
}
