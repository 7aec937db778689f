package history

import (
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestTheModelBehavesAsARegistryOfOneNode(t *testing.T) {
	tests := map[string]struct {
		history []porcupine.Operation
		legal   bool
	}{
		"a read after a write sees the write": {
			history: sequence(op(Put, 1, Output{}), op(Get, 0, Output{Present: true, Value: 1})),
			legal:   true,
		},
		"a read after two writes must not see the first": {
			history: sequence(op(Put, 1, Output{}), op(Put, 2, Output{}), op(Get, 0, Output{Present: true, Value: 1})),
		},
		"a read after a write must not see nothing": {
			history: sequence(op(Put, 1, Output{}), op(Get, 0, Output{})),
		},
		"a removal of an absent node finds none": {
			history: sequence(op(Remove, 0, Output{})),
			legal:   true,
		},
		"a removal of an absent node must not find one": {
			history: sequence(op(Remove, 0, Output{Present: true})),
		},
		"a put if absent of a present node is refused": {
			history: sequence(op(Put, 1, Output{}), op(PutIfAbsent, 2, Output{Present: true}), op(Get, 0, Output{Present: true, Value: 1})),
			legal:   true,
		},
		"a put if absent of a present node must not succeed": {
			history: sequence(op(Put, 1, Output{}), op(PutIfAbsent, 2, Output{})),
		},
		"an unknown write may have taken effect": {
			history: sequence(op(Put, 1, Output{Unknown: true}), op(Get, 0, Output{Present: true, Value: 1})),
			legal:   true,
		},
		"an unknown write may take effect later": {
			history: sequence(op(Put, 1, Output{Unknown: true}), op(Get, 0, Output{}), op(Get, 0, Output{Present: true, Value: 1})),
			legal:   true,
		},
		"an unknown write must not take effect twice": {
			history: sequence(op(Put, 1, Output{Unknown: true}), op(Get, 0, Output{Present: true, Value: 1}),
				op(Put, 2, Output{}), op(Get, 0, Output{Present: true, Value: 1})),
		},
		"a replacement of the current value is done": {
			history: sequence(op(Put, 1, Output{}), replace(1, 2, Output{Present: true}), op(Get, 0, Output{Present: true, Value: 2})),
			legal:   true,
		},
		"a replacement of another value is refused": {
			history: sequence(op(Put, 1, Output{}), op(Put, 2, Output{}), replace(1, 3, Output{}), op(Get, 0, Output{Present: true, Value: 2})),
			legal:   true,
		},
		"a replacement of another value must not be done": {
			history: sequence(op(Put, 1, Output{}), op(Put, 2, Output{}), replace(1, 3, Output{Present: true})),
		},
		"a replacement of the current value must not be refused": {
			history: sequence(op(Put, 1, Output{}), replace(1, 2, Output{})),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if legal := porcupine.CheckOperations(Model, test.history); legal != test.legal {
				t.Errorf("history is legal = %v, want %v", legal, test.legal)
			}
		})
	}
}

func op(k Kind, value int, out Output) porcupine.Operation {
	return porcupine.Operation{Input: Input{Kind: k, Node: "n", Value: value}, Output: out}
}

func replace(old, value int, out Output) porcupine.Operation {
	return porcupine.Operation{Input: Input{Kind: Replace, Node: "n", Value: value, Old: old}, Output: out}
}

// sequence makes operations sequential, each by a client of its own.
func sequence(operations ...porcupine.Operation) []porcupine.Operation {
	for i := range operations {
		operations[i].ClientId = i
		operations[i].Call, operations[i].Return = int64(2*i), int64(2*i+1)
		if operations[i].Output.(Output).Unknown {
			operations[i].Return = Never
		}
	}
	return operations
}
