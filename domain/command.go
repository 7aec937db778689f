package domain

import "fmt"

// Command is a wish to change the registry: a Register or a Deregister. It is
// plain data, so that it can be replicated; Registry.Apply decides on it.
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

func (Register) isCommand()   {}
func (Deregister) isCommand() {}

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

// check is nil when the condition holds for node, which is nil when there is
// none.
func (c Condition) check(node *CacheNode) error {
	switch {
	case c.Expect == Absent && node != nil:
		return fmt.Errorf("%w: node %q exists, at revision %d", ErrConditionFailed, node.ID, node.Revision)
	case (c.Expect == Present || c.Expect == AtRevision) && node == nil:
		return fmt.Errorf("%w: there is no such node", ErrConditionFailed)
	case c.Expect == AtRevision && node.Revision != c.Revision:
		return fmt.Errorf("%w: node %q is at revision %d, not %d", ErrConditionFailed, node.ID, node.Revision, c.Revision)
	}
	return nil
}
