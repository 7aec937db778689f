package domain

import (
	"errors"
	"fmt"
)

// MaxBatch limits the commands of a Batch and the nodes of an Expire.
const MaxBatch = 1000

// Command asks for a change of the registry. It is plain data, so that it can be
// replicated; Registry.Apply decides on it.
type Command interface{ isCommand() }

// Register adds Node, or replaces the node that has its id.
type Register struct {
	Node CacheNode
	If   Condition
}

// Deregister removes the node named by ID.
type Deregister struct {
	ID string
	If Condition
}

// Batch carries out all of its commands, in order, or none of them. Each command is a
// Register or a Deregister: see NewBatch.
type Batch struct {
	Commands []Command
}

// Expire does to each of these nodes what its OnExpiry says. It skips a node that is no
// longer at the given revision, because the node has changed since its time ran out.
// Expire is never refused.
type Expire struct {
	Nodes []NodeAt
}

// NodeAt names a node at one of its revisions.
type NodeAt struct {
	ID       string
	Revision Revision
}

// Revive gives a node that expiry made down the state that it had before. It leaves any
// other node unchanged.
type Revive struct {
	ID string
}

func (Register) isCommand()   {}
func (Deregister) isCommand() {}
func (Batch) isCommand()      {}
func (Expire) isCommand()     {}
func (Revive) isCommand()     {}

// Edit is one change of a batch as a client asked for it. Exactly one of Put and Remove
// must be set.
type Edit struct {
	Put    *NodeSpec
	Remove *string
	// IfRevision, if set, is the revision that the node must be at. 0, allowed with Put
	// only, means that the node must not exist.
	IfRevision *Revision
}

// NewBatch makes a batch of what a client asked for, or returns all its faults at once
// (InvalidError, joined).
func NewBatch(edits []Edit) (Batch, error) {
	if len(edits) == 0 || len(edits) > MaxBatch {
		return Batch{}, invalid("changes", "must be 1 to %d, not %d", MaxBatch, len(edits))
	}
	batch := Batch{Commands: make([]Command, len(edits))}
	var faults []error
	for i, edit := range edits {
		cmd, wrong := edit.command()
		for _, fault := range wrong {
			faults = append(faults, fmt.Errorf("changes[%d]: %w", i, fault))
		}
		batch.Commands[i] = cmd
	}
	if err := errors.Join(faults...); err != nil {
		return Batch{}, err
	}
	return batch, nil
}

func (e Edit) command() (Command, []error) {
	if (e.Put == nil) == (e.Remove == nil) {
		return nil, []error{invalid("it", "must be either put or remove")}
	}
	condition := Condition{}
	switch {
	case e.IfRevision == nil:
	case *e.IfRevision == 0:
		condition.Expect = Absent
	default:
		condition = Condition{Expect: AtRevision, Revision: *e.IfRevision}
	}
	if e.Put != nil {
		node, err := NewCacheNode(*e.Put)
		return Register{Node: node, If: condition}, parts(err)
	}
	faults := parts(CheckNodeID(*e.Remove))
	if condition.Expect == Absent {
		faults = append(faults, invalid("ifRevision", "must be at least 1 where a node is removed"))
	}
	return Deregister{ID: *e.Remove, If: condition}, faults
}

// Expectation is the kind of a Condition.
type Expectation uint8

// What a command can expect of the node that it names.
const (
	Anything   Expectation = iota // no condition
	Absent                        // the node does not exist
	Present                       // the node exists
	AtRevision                    // the node exists and is at Condition.Revision
)

// Condition is what must be true of the node that a command names for the command to be
// carried out. The zero Condition always holds.
type Condition struct {
	Expect   Expectation
	Revision Revision // with AtRevision
}

// check returns nil if the condition holds for the node named id, else
// ErrConditionFailed. node is nil if there is no such node.
func (c Condition) check(id string, node *CacheNode) error {
	switch {
	case c.Expect == Absent && node != nil:
		return fmt.Errorf("%w: node %q exists, at revision %d", ErrConditionFailed, id, node.Revision)
	case (c.Expect == Present || c.Expect == AtRevision) && node == nil:
		return fmt.Errorf("%w: there is no node %q", ErrConditionFailed, id)
	case c.Expect == AtRevision && node.Revision != c.Revision:
		return fmt.Errorf("%w: node %q is at revision %d, not %d", ErrConditionFailed, id, node.Revision, c.Revision)
	}
	return nil
}
