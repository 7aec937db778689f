package history

import (
	"context"
	"errors"
	"net/http"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// answer is what a client was told, and what that says of the operation.
type answer struct {
	Output
	outcome  harness.Outcome
	wrote    bool
	revision uint64 // that was made, or of the node that was read
}

func nodeOf(in Input) harness.Node {
	node := harness.NewNode(in.Node)
	node.Weight = &in.Value
	return node
}

// ask does what in says. revision is that of the condition of a Replace.
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

// told is what an error says. With that status it is an answer as good as any.
func told(err error, status int, out Output) answer {
	if problem := new(harness.Problem); errors.As(err, &problem) && problem.Answer.Status == status {
		return answer{Output: out}
	}
	return answer{outcome: harness.OutcomeOf(err)}
}
