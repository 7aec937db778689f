package domain

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode"
	"unicode/utf8"
)

// The limits and defaults of a cache node.
const (
	DefaultPool        = "default"
	DefaultWeight      = 100
	MaxWeight          = 1_000_000
	MaxZoneBytes       = 128
	MaxLabels          = 32
	MaxLabelValueBytes = 256
	MaxTTLSeconds      = 86_400
)

// Revision is the registry's version: it starts at 0 and grows by exactly 1
// with every change that really changes the registry.
type Revision uint64

// State says whether clients should use a node.
type State string

// Active nodes serve, Draining ones are about to leave, Down ones are out of service,
// because a client said so or because they expired.
const (
	Active   State = "active"
	Draining State = "draining"
	Down     State = "down"
)

// OnExpiry says what becomes of a node when its time to live runs out.
type OnExpiry string

// The node is removed, or it is down until it is renewed or registered again.
const (
	RemoveOnExpiry OnExpiry = "remove"
	DownOnExpiry   OnExpiry = "down"
)

// CacheNode is a member of the distributed cache, as the registry holds it.
// Once it is in a registry it is immutable, its labels included.
type CacheNode struct {
	ID      string
	Address string
	Pool    string
	Weight  int
	Zone    string
	Labels  map[string]string
	State   State
	// TTLSeconds is how long the node lives without being renewed; 0: for ever.
	TTLSeconds int
	OnExpiry   OnExpiry

	// The registry sets this field and those below, and ignores them in a command.
	// ExpiredFrom is the state that the node had before expiry made it down;
	// empty unless that is why it is down.
	ExpiredFrom State

	// Slot is the node's number in its pool. It stays while the node is in the pool.
	Slot            int
	CreatedRevision Revision
	Revision        Revision
}

// NodeSpec is a node as a client describes it. A nil field means its default.
type NodeSpec struct {
	ID      string
	Address string
	Pool    *string
	Weight  *int
	Zone    string
	Labels  map[string]string
	State   *State
	// TTLSeconds is nil for a node that lives for ever.
	TTLSeconds *int
	OnExpiry   *OnExpiry
}

// NewCacheNode makes a node of spec, or returns all faults of spec at once
// (InvalidError, joined). The node shares no memory with spec.
func NewCacheNode(spec NodeSpec) (CacheNode, error) {
	n := CacheNode{
		ID:      spec.ID,
		Address: spec.Address,
		Pool:    valueOr(spec.Pool, DefaultPool),
		Weight:  valueOr(spec.Weight, DefaultWeight),
		Zone:    spec.Zone,
		Labels:  maps.Clone(spec.Labels),
		State:   valueOr(spec.State, Active),

		TTLSeconds: valueOr(spec.TTLSeconds, 0),
		OnExpiry:   valueOr(spec.OnExpiry, RemoveOnExpiry),
	}
	if len(n.Labels) == 0 {
		n.Labels = nil
	}
	faults := []error{n.validate()}
	if spec.TTLSeconds != nil && (n.TTLSeconds < 1 || n.TTLSeconds > MaxTTLSeconds) {
		faults = append(faults, invalid("ttlSeconds", "must be from 1 to %d: %d", MaxTTLSeconds, n.TTLSeconds))
	}
	if err := errors.Join(faults...); err != nil {
		return CacheNode{}, err
	}
	return n, nil
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func (n *CacheNode) validate() error {
	faults := []error{
		CheckNodeID(n.ID),
		CheckAddress("address", n.Address),
		CheckID("pool", n.Pool),
		checkText("zone", n.Zone, MaxZoneBytes),
	}
	if n.Weight < 0 || n.Weight > MaxWeight {
		faults = append(faults, invalid("weight", "must be from 0 to %d: %d", MaxWeight, n.Weight))
	}
	faults = append(faults, checkState(n.State))
	if n.OnExpiry != RemoveOnExpiry && n.OnExpiry != DownOnExpiry {
		faults = append(faults, invalid("onExpiry", "must be remove or down: %q", n.OnExpiry))
	}
	switch {
	case len(n.Labels) > MaxLabels:
		faults = append(faults, invalid("labels", "has %d keys, more than %d", len(n.Labels), MaxLabels))
	case len(n.Labels) > 0:
		for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
			faults = append(faults,
				CheckID(fmt.Sprintf("the key of labels[%q]", key), key),
				checkText(fmt.Sprintf("labels[%q]", key), n.Labels[key], MaxLabelValueBytes))
		}
	}
	return errors.Join(faults...)
}

func checkState(s State) error {
	if s != Active && s != Draining && s != Down {
		return invalid("state", "must be active, draining or down: %q", s)
	}
	return nil
}

// CheckNodeID is CheckID for the id of a cache node, which must not be one of the words
// that the API has in the place of an id.
func CheckNodeID(id string) error {
	if id == "sse" || id == "batch" {
		return invalid("id", "must not be the reserved word %q", id)
	}
	return CheckID("id", id)
}

// checkText reports an error unless text is at most limit bytes of UTF-8 without control
// characters. In JSON each of these takes six bytes, and one event of a stream must have
// room for two versions of a node.
func checkText(field, text string, limit int) error {
	switch {
	case len(text) > limit:
		return invalid(field, "is %d bytes long, more than %d", len(text), limit)
	case !utf8.ValidString(text):
		return invalid(field, "is not valid UTF-8")
	}
	for _, r := range text {
		if unicode.IsControl(r) {
			return invalid(field, "must not have control characters in it: %q", text)
		}
	}
	return nil
}

// sameAs compares what clients set, not what the registry sets. The fields that change
// most often come first.
func (n *CacheNode) sameAs(o *CacheNode) bool {
	return n.Weight == o.Weight && n.State == o.State && n.TTLSeconds == o.TTLSeconds && n.OnExpiry == o.OnExpiry &&
		n.ID == o.ID && n.Address == o.Address && n.Pool == o.Pool && n.Zone == o.Zone &&
		maps.Equal(n.Labels, o.Labels)
}

// share makes n use the memory of old, the version before it, for all fields that are
// equal. Most changes change little, and the history holds thousands of them.
func (n *CacheNode) share(old *CacheNode) {
	n.ID = old.ID
	for _, text := range []struct{ own, known *string }{
		{&n.Address, &old.Address}, {&n.Pool, &old.Pool}, {&n.Zone, &old.Zone},
	} {
		if *text.own == *text.known {
			*text.own = *text.known
		}
	}
	if maps.Equal(n.Labels, old.Labels) {
		n.Labels = old.Labels
	}
}

// Expires reports whether the node expires unless it is renewed: it has a time to live,
// and is not already down where OnExpiry would make it down.
func (n *CacheNode) Expires() bool {
	return n.TTLSeconds > 0 && (n.OnExpiry != DownOnExpiry || n.State != Down)
}

// nodeOverhead stands for the fields of fixed size in the size of a node, labelOverhead
// for the memory that a label takes beside its text.
const (
	nodeOverhead  = 128
	labelOverhead = 32
)

// size is how many bytes the node counts towards the limits of the registry and its
// history. It depends on the node alone, so every replica counts alike.
func (n *CacheNode) size() int {
	size := nodeOverhead + len(n.ID) + len(n.Address) + len(n.Pool) + len(n.Zone) + len(n.State)
	for key, value := range n.Labels {
		size += labelOverhead + len(key) + len(value)
	}
	return size
}
