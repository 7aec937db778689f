package consensus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// restorePartBytes is about how long a part of a restore is. Raft may send
	// 256 entries to a peer at once, within rpcTimeout, behind which all others wait.
	restorePartBytes = 256 << 10
	// restoreStep bounds the time of each entry of a restore.
	restoreStep = 5 * time.Second
)

// Replace implements ports.Restorer.
func (n *Node) Replace(ctx context.Context, with *domain.Replacement, expected *domain.Revision) (domain.Replaced, error) {
	if err := n.refusal(ctx); err != nil {
		return domain.Replaced{}, err
	}
	if err := n.unreadable(restorePart{}); err != nil {
		return domain.Replaced{}, err
	}
	id := rand.Text()
	parts, err := n.stage(ctx, id, with.Nodes())
	if err != nil {
		n.abandon(id)
		return domain.Replaced{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, restoreStep)
	defer cancel()
	answer, err := n.apply(ctx, encodeEntry(restoreCommit{ID: id, Parts: parts, Expected: expected}))
	switch {
	case errors.Is(err, ports.ErrOutcomeUnknown):
		return domain.Replaced{}, err
	case err != nil:
		n.abandon(id)
		return domain.Replaced{}, err
	}
	return answer.replaced, stepError(answer.err)
}

// stage writes the nodes in parts, one after the other, and gives their number.
// Whatever becomes of a part, the registry is not changed by it.
func (n *Node) stage(ctx context.Context, id string, nodes []*domain.CacheNode) (parts int, err error) {
	for parts == 0 || len(nodes) > 0 { // an empty backup is one part
		part := restorePart{ID: id, Number: parts, Nodes: nodes[:n.partLength(nodes)]}
		if err := n.stagePart(ctx, part); err != nil {
			return 0, err
		}
		nodes = nodes[len(part.Nodes):]
		parts++
	}
	return parts, nil
}

// partLength is how many of the nodes fit into one part; at least one.
func (n *Node) partLength(nodes []*domain.CacheNode) int {
	most, bytes := cmp.Or(n.hooks.restorePartBytes, restorePartBytes), 0
	for i, one := range nodes {
		if bytes += nodeSize(one); bytes > most && i > 0 {
			return i
		}
	}
	return len(nodes)
}

func (n *Node) stagePart(ctx context.Context, part restorePart) error {
	step, cancel := context.WithTimeout(ctx, restoreStep)
	defer cancel()
	answer, err := n.apply(step, encodeEntry(part))
	switch {
	case err == nil:
		return stepError(answer.err)
	case !errors.Is(err, ports.ErrOutcomeUnknown):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case step.Err() != nil:
		return fmt.Errorf("part %d of the restore was not written within %v: %w", part.Number, restoreStep, step.Err())
	}
	// What is not known is whether the part is in the log, and that changes nothing.
	return fmt.Errorf("%w: leadership ended before all of the backup was written: %v", ports.ErrNoLeader, err)
}

// stepError gives the answer to a step of a restore in the words of the port.
func stepError(err error) error {
	if errors.Is(err, errNotStaged) {
		return fmt.Errorf("%w: %w", ports.ErrBusy, err)
	}
	return err
}

// abandon has every replica drop what is staged. Where it can't, whoever opens the
// next term does so.
func (n *Node) abandon(id string) {
	ctx, cancel := context.WithTimeout(n.running, restoreStep)
	defer cancel()
	_, err := n.apply(ctx, encodeEntry(restoreAbort{ID: id}))
	if err != nil && !errors.Is(err, ports.ErrNotLeader) && !errors.Is(err, ports.ErrClosed) {
		n.config.Logger.Warn("what was written of a restore could not be dropped yet", "error", err)
	}
}
