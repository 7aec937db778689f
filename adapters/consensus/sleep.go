package consensus

import (
	"context"
	"time"
)

// sleep waits for d; it returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// sleep waits for d; it returns false if this instance is closed first.
func (n *Node) sleep(d time.Duration) bool { return sleep(n.running, d) }
