package linearizability

import (
	"fmt"
	"testing"

	"github.com/anishathalye/porcupine"
)

// kind is what an operation does to its node.
type kind int

const (
	get kind = iota
	put
	putIfAbsent
	remove
)

func (k kind) String() string { return [...]string{"get", "put", "put if absent", "remove"}[k] }

type input struct {
	kind  kind
	node  string
	value int // the weight that is written; no two writes share one
	// here: whoever is asked answers, a follower as well. It makes no difference
	// to what may be answered.
	here bool
}

// output is what the client was told. Of a write with an unknown outcome it was
// told nothing: it may take effect at any time from its call on, also after all
// that was seen, which is the same as never.
type output struct {
	unknown bool
	present bool // get, remove: there was a node; putIfAbsent: there was one before
	value   int  // get: its weight
}

// content is what one node of the registry may be.
type content struct {
	present bool
	value   int
}

// model is one node of the registry: nodes do not touch each other.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byNode := map[string][]porcupine.Operation{}
		for _, operation := range history {
			node := operation.Input.(input).node
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
		return step(state.(content), in.(input), out.(output))
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		if o.unknown {
			return fmt.Sprintf("%s %d → ?", i.kind, i.value)
		}
		where := ""
		if i.here {
			where = " here"
		}
		return fmt.Sprintf("%s%s %d → present %v, value %d", i.kind, where, i.value, o.present, o.value)
	},
}

func step(before content, in input, out output) (bool, content) {
	written := content{present: true, value: in.value}
	switch in.kind {
	case put:
		return true, written
	case putIfAbsent:
		if before.present {
			return out.unknown || out.present, before
		}
		return out.unknown || !out.present, written
	case remove:
		return out.unknown || out.present == before.present, content{}
	}
	return out.present == before.present && out.value == before.value, before
}

func TestTheModelIsARegistryOfOneNode(t *testing.T) {
	tests := map[string]struct {
		history []porcupine.Operation
		legal   bool
	}{
		"a read after a write sees it": {
			history: sequence(op(put, 1, output{}), op(get, 0, output{present: true, value: 1})),
			legal:   true,
		},
		"a read after two writes must not see the first": {
			history: sequence(op(put, 1, output{}), op(put, 2, output{}), op(get, 0, output{present: true, value: 1})),
		},
		"a read after a write must not see nothing": {
			history: sequence(op(put, 1, output{}), op(get, 0, output{})),
		},
		"a removal of nothing finds nothing": {
			history: sequence(op(remove, 0, output{})),
			legal:   true,
		},
		"a removal that found a node needs one": {
			history: sequence(op(remove, 0, output{present: true})),
		},
		"a put if absent beside a node is refused": {
			history: sequence(op(put, 1, output{}), op(putIfAbsent, 2, output{present: true}), op(get, 0, output{present: true, value: 1})),
			legal:   true,
		},
		"a put if absent beside a node must not succeed": {
			history: sequence(op(put, 1, output{}), op(putIfAbsent, 2, output{})),
		},
		"an unknown write may have taken effect": {
			history: sequence(op(put, 1, output{unknown: true}), op(get, 0, output{present: true, value: 1})),
			legal:   true,
		},
		"an unknown write may take effect later": {
			history: sequence(op(put, 1, output{unknown: true}), op(get, 0, output{}), op(get, 0, output{present: true, value: 1})),
			legal:   true,
		},
		"an unknown write must not take effect twice": {
			history: sequence(op(put, 1, output{unknown: true}), op(get, 0, output{present: true, value: 1}),
				op(put, 2, output{}), op(get, 0, output{present: true, value: 1})),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if legal := porcupine.CheckOperations(model, test.history); legal != test.legal {
				t.Errorf("legal: %v, want %v", legal, test.legal)
			}
		})
	}
}

func op(k kind, value int, out output) porcupine.Operation {
	return porcupine.Operation{Input: input{kind: k, node: "n", value: value}, Output: out}
}

// sequence puts operations one after the other, each with its own client.
func sequence(operations ...porcupine.Operation) []porcupine.Operation {
	for i := range operations {
		operations[i].ClientId = i
		operations[i].Call, operations[i].Return = int64(2*i), int64(2*i+1)
		if operations[i].Output.(output).unknown {
			operations[i].Return = never
		}
	}
	return operations
}
