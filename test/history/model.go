package history

import (
	"fmt"
	"math"

	"github.com/anishathalye/porcupine"
)

// Kind is what an operation does to its node.
type Kind int

// The kinds. A batch is a Put of each of its nodes, all at the same time.
const (
	Get Kind = iota
	Put
	PutIfAbsent
	Replace // a put on the condition that the node still has a value
	Remove
)

// String is for people.
func (k Kind) String() string {
	return [...]string{"get", "put", "put if absent", "replace", "remove"}[k]
}

// Input is what a client asked for.
type Input struct {
	Kind  Kind
	Node  string
	Value int // the weight that is written; no two writes share one
	Old   int // Replace: the weight that the node must have
	// Here: whoever is asked answers, a follower as well. It makes no difference
	// to what may be answered.
	Here bool
}

// Output is what the client was told. Of a write with an unknown outcome it was
// told nothing: it may take effect at any time from its call on, also after all
// that was seen, which is the same as never.
type Output struct {
	Unknown bool
	// Present: there was a node (Get, Remove), there was one before (PutIfAbsent),
	// or it had the value that it must have (Replace).
	Present bool
	Value   int // Get: its weight
}

// Never is when an operation returns of which the client has heard nothing.
const Never = math.MaxInt64

// content is what one node of the registry may be.
type content struct {
	present bool
	value   int
}

// Model is one node of the registry: nodes do not touch each other.
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
