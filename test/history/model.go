package history

import (
	"fmt"
	"math"

	"github.com/anishathalye/porcupine"
)

// Kind is what an operation does to its node.
type Kind int

// The kinds. A batch counts as one Put for each of its nodes, all concurrent.
const (
	Get Kind = iota
	Put
	PutIfAbsent
	Replace // a put on the condition that the node still has its old value
	Remove
)

// String returns the name of the kind, for people.
func (k Kind) String() string {
	return [...]string{"get", "put", "put if absent", "replace", "remove"}[k]
}

// Input is what a client asked for.
type Input struct {
	Kind  Kind
	Node  string
	Value int // the weight to write; no two writes share one
	Old   int // Replace: the weight that the node must have for the write to happen
	// Here says that the instance asked answers itself, even if it is a follower.
	// The answers allowed are the same.
	Here bool
}

// Output is what the client was told. If the outcome of a write is Unknown, the
// write may take effect at any time after its call, including after the end of the
// history, which is the same as never.
type Output struct {
	Unknown bool
	// Present says that the node exists (Get, Remove), that it existed before
	// (PutIfAbsent), or that it had the required value (Replace).
	Present bool
	Value   int // Get: the weight of the node
}

// Never is the time of return of an operation whose outcome is unknown.
const Never = math.MaxInt64

// content is the state of one node in the model.
type content struct {
	present bool
	value   int
}

// Model models the registry node by node, since operations on different nodes are independent.
var Model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byNode := map[string][]porcupine.Operation{}
		for _, operation := range history {
			node := operation.Input.(Input).Node
			byNode[node] = append(byNode[node], operation)
		}
		var parts [][]porcupine.Operation
		for _, part := range byNode {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return content{} },
	Step: func(state, in, out any) (bool, any) {
		return step(state.(content), in.(Input), out.(Output))
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(Input), out.(Output)
		if o.Unknown {
			return fmt.Sprintf("%s %d → ?", i.Kind, i.Value)
		}
		where := ""
		if i.Here {
			where = " here"
		}
		return fmt.Sprintf("%s%s %d → present %v, value %d", i.Kind, where, i.Value, o.Present, o.Value)
	},
}

func step(before content, in Input, out Output) (bool, content) {
	written := content{present: true, value: in.Value}
	switch in.Kind {
	case Put:
		return true, written
	case PutIfAbsent:
		if before.present {
			return out.Unknown || out.Present, before
		}
		return out.Unknown || !out.Present, written
	case Replace:
		if before != (content{present: true, value: in.Old}) {
			return out.Unknown || !out.Present, before
		}
		return out.Unknown || out.Present, written
	case Remove:
		return out.Unknown || out.Present == before.present, content{}
	}
	return out.Present == before.present && out.Value == before.value, before
}
