package consensus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// restorePartBytes is the size of a part of a restore, unless a single node is larger.
	// Raft may send up to 256 entries to a peer in one message, within rpcTimeout, and all
	// later ones wait for that.
	restorePartBytes = 256 << 10
	// restoreStep is the timeout for each entry of a restore.
	restoreStep = 5 * time.Second
)

// Replace implements ports.Restorer.
func (n *Node) Replace(ctx context.Context, with *domain.Replacement, expected *domain.Revision) (domain.Replaced, error) {
	if err := n.refusal(ctx); err != nil {
		return domain.Replaced{}, err
	}
	if err := n.checkAllCanRead(codec.RestorePart{}); err != nil {
		return domain.Replaced{}, err
	}
	id := rand.Text()
	parts, err := n.proposeParts(ctx, id, with.Nodes())
	if err != nil {
		n.dropStaged(id)
		return domain.Replaced{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, restoreStep)
	defer cancel()
	answer, err := n.apply(ctx, codec.EncodeEntry(codec.RestoreCommit{ID: id, Parts: parts, Expected: expected}))
	switch {
	case errors.Is(err, ports.ErrOutcomeUnknown):
		return domain.Replaced{}, err
	case err != nil:
		n.dropStaged(id)
		return domain.Replaced{}, err
	}
	return answer.replaced, stepError(answer.err)
}

// proposeParts proposes the nodes in parts, one after the other, and returns how many parts
// there are. No part changes the registry, whatever its outcome.
func (n *Node) proposeParts(ctx context.Context, id string, nodes []*domain.CacheNode) (parts int, err error) {
	for parts == 0 || len(nodes) > 0 { // an empty backup has one part
		part := codec.RestorePart{ID: id, Number: parts, Nodes: nodes[:n.partLength(nodes)]}
		if err := n.proposePart(ctx, part); err != nil {
			return 0, err
		}
		nodes = nodes[len(part.Nodes):]
		parts++
	}
	return parts, nil
}

// partLength returns how many of the nodes fit into one part; at least one, if there is any.
func (n *Node) partLength(nodes []*domain.CacheNode) int {
	most, bytes := cmp.Or(n.hooks.restorePartBytes, restorePartBytes), 0
	for i, one := range nodes {
		if bytes += codec.NodeSize(one); bytes > most && i > 0 {
			return i
		}
	}
	return len(nodes)
}

func (n *Node) proposePart(ctx context.Context, part codec.RestorePart) error {
	step, cancel := context.WithTimeout(ctx, restoreStep)
	defer cancel()
	answer, err := n.apply(step, codec.EncodeEntry(part))
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
	// It is unknown whether the part is in the log, but a part changes nothing by itself. So
	// the text of err, which says that the write may take effect, would be wrong here.
	return fmt.Errorf("%w: leadership ended before all of the backup was written", ports.ErrNoLeader)
}

// stepError translates the outcome of a step of a restore into an error of the port.
func stepError(err error) error {
	if errors.Is(err, errNotStaged) {
		return fmt.Errorf("%w: %w", ports.ErrBusy, err)
	}
	return err
}

// dropStaged has every replica drop what is staged. If it fails, the opening of the next
// term does so.
func (n *Node) dropStaged(id string) {
	ctx, cancel := context.WithTimeout(n.running, restoreStep)
	defer cancel()
	_, err := n.apply(ctx, codec.EncodeEntry(codec.RestoreAbort{ID: id}))
	if err != nil && !errors.Is(err, ports.ErrNotLeader) && !errors.Is(err, ports.ErrClosed) {
		n.config.Logger.Warn("the staged parts of a restore could not be dropped yet", "error", err)
	}
}
