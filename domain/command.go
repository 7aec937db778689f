package domain

import (
	"errors"
	"fmt"
)

// MaxBatch is how many changes a Batch, and how many nodes an Expire, may hold.
const MaxBatch = 1000

// Command is a wish to change the registry. It is plain data, so that it can be
// replicated; Registry.Apply decides on it.
type Command interface{ isCommand() }

// Register adds Node, or replaces the node of that id.
type Register struct {
	Node CacheNode
	If   Condition
}

// Deregister removes the node named by ID.
type Deregister struct {
	ID string
	If Condition
}

// Batch carries out all of its commands, in order, or none of them. They are
// Register and Deregister: see NewBatch.
type Batch struct {
	Commands []Command
}

// Expire does to each of these nodes what it asked for when its time to live
// runs out. A node that is no longer at the revision given is left alone: it is
// not the one that was meant. Nothing about it can be refused.
type Expire struct {
	Nodes []NodeAt
}

// NodeAt is a node as it was at its revision.
type NodeAt struct {
	ID       string
	Revision Revision
}

// Revive makes a node that expiry made down what it was before. Any other node
// stays as it is.
type Revive struct {
	ID string
}

func (Register) isCommand()   {}
func (Deregister) isCommand() {}
func (Batch) isCommand()      {}
func (Expire) isCommand()     {}
func (Revive) isCommand()     {}

// Edit is one change of a batch in a client's words: Put or Remove, the other
// one nil.
type Edit struct {
	Put    *NodeSpec
	Remove *string
	// IfRevision, if given, is the revision that the node must be at; 0, with
	// Put only, that there must be none.
	IfRevision *Revision
}

// NewBatch makes a batch out of a client's words, or says everything that is
// wrong with them (InvalidError, joined).
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
	Absent                        // there is no such node
	Present                       // there is one
	AtRevision                    // there is one, and its revision is Condition.Revision
)

// Condition is what must be true of the named node for a command to be carried
// out. The zero value holds always.
type Condition struct {
	Expect   Expectation
	Revision Revision // with AtRevision
}

// check is nil when the condition holds for the node named id, which is nil when there is
// none.
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
