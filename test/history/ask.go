package history

import (
	"context"
	"errors"
	"net/http"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// answer is what a client was told, and what the answer says about the operation.
type answer struct {
	Output
	outcome  harness.Outcome
	wrote    bool
	revision uint64 // the one that the write made, or that of the node read
}

func nodeOf(in Input) harness.Node {
	node := harness.NewNode(in.Node)
	node.Weight = &in.Value
	return node
}

// ask performs the operation in. revision is the condition of a Replace.
func ask(ctx context.Context, client *harness.Client, in Input, revision uint64) answer {
	switch in.Kind {
	case Get:
		stored, err := client.Get(ctx, in.Node)
		if err != nil {
			return told(err, http.StatusNotFound, Output{})
		}
		return answer{Output: Output{Present: true, Value: *stored.Weight}, revision: stored.Revision}
	case PutIfAbsent:
		stored, err := client.Put(ctx, nodeOf(in), harness.IfAbsent())
		if err != nil {
			return told(err, http.StatusPreconditionFailed, Output{Present: true})
		}
		return answer{wrote: true, revision: stored.Revision}
	case Replace:
		stored, err := client.Put(ctx, nodeOf(in), harness.IfRevision(revision))
		if err != nil {
			return told(err, http.StatusPreconditionFailed, Output{})
		}
		return answer{Output: Output{Present: true}, wrote: true, revision: stored.Revision}
	case Remove:
		stored, err := client.Delete(ctx, in.Node)
		if err != nil {
			return told(err, http.StatusNotFound, Output{})
		}
		return answer{Output: Output{Present: true}, wrote: true, revision: stored.Seen}
	}
	stored, err := client.Put(ctx, nodeOf(in))
	if err != nil {
		return answer{outcome: harness.OutcomeOf(err)}
	}
	return answer{wrote: true, revision: stored.Revision}
}

// told converts an error to an answer. An error with the given status is a definite
// answer, with the output out.
func told(err error, status int, out Output) answer {
	if problem := new(harness.Problem); errors.As(err, &problem) && problem.Answer.Status == status {
		return answer{Output: out}
	}
	return answer{outcome: harness.OutcomeOf(err)}
}
