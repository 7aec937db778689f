package domain

// Effect is what a command did to the registry.
type Effect string

// Unchanged makes no new revision and no event; the others are the types of events.
const (
	Added     Effect = "added"
	Updated   Effect = "updated"
	Removed   Effect = "removed"
	Unchanged Effect = "unchanged"
)

// Reason is why a change was made.
type Reason string

// ByRequest: a client asked for it. ByExpiry: the node's time to live ran out.
// ByRestore: a backup replaced the registry.
const (
	ByRequest Reason = "request"
	ByExpiry  Reason = "expired"
	ByRestore Reason = "restore"
)

// Change is what an accepted command did. It is shared and never modified.
type Change struct {
	// Revision is the registry's revision after the change. No two changes have the
	// same one, except those that are Unchanged.
	Revision Revision
	Effect   Effect
	Reason   Reason
	// Node is the node after the change; for Removed, its last state.
	Node *CacheNode
	// Previous is the node before the change; nil if there was none.
	Previous *CacheNode
}

const changeOverhead = 64

func (c *Change) size() int {
	size := changeOverhead + c.Node.size()
	if c.Previous != nil {
		size += c.Previous.size()
	}
	return size
}
