package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.uber.org/fx"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// parts are the parts of an instance that have to be started or stopped.
type parts struct {
	fx.In

	Demux   *demux.Demux
	Node    *consensus.Node
	Peers   *peerapi.Client
	Peer    *peerapi.Server
	Cluster *app.Cluster
	Leases  *app.Leases
	HTTP    *httpapi.Server
	Joiner  *app.Joiner
	Log     *slog.Logger
}

// step is one step of the start, and its counterpart of the stop. Either may be nil.
type step struct {
	name  string
	open  func(context.Context) error
	close func(context.Context) error
	// share is the part of the remaining time that close may use; the rest is for the
	// steps after it. Zero means all of it.
	share float64
}

// lifecycle is the order in which an instance starts, from top to bottom, and
// stops, from bottom to top.
func lifecycle(lc fx.Lifecycle, p parts) {
	for _, s := range steps(p) {
		lc.Append(s.hook())
	}
}

func steps(p parts) []step {
	return []step{
		// First of all: if another process has the directory, nothing is bound.
		{name: "directory", open: p.Node.Claim, close: p.Node.Close},
		{name: "raft port", open: p.Demux.Open, close: withoutContext(p.Demux.Close)},
		// Before raft, which may have a long log to replay: meanwhile others can ask who
		// this instance is.
		{name: "peer API", open: p.Peer.Open, close: p.Peer.Close, share: 0.5},
		{name: "raft", open: p.Node.Open, close: p.Node.Close, share: 0.75},
		{name: "peer connections", close: withoutContext(p.Peers.Close)},
		// After raft, so that expiries on their way end before raft is closed.
		{name: "leases", open: p.Leases.Open, close: p.Leases.Close, share: 0.5},
		{name: "cluster watch", open: p.Cluster.Open, close: p.Cluster.Close, share: 0.5},
		// Its share is the time in which a request is decided and its answer begins,
		// even if leadership could not be handed over: no request is broken off that
		// would have ended by itself.
		{name: "application API", open: p.HTTP.Open, close: p.HTTP.Close, share: 0.75},
		{name: "join", open: p.Joiner.Open, close: p.Joiner.Close, share: 0.5},
		// Stops first: while leadership moves, requests are still answered, with the
		// address of the new leader as soon as there is one.
		{name: "leadership", close: handOver(p), share: 0.25},
	}
}

func (s step) hook() fx.Hook {
	var hook fx.Hook
	if s.open != nil {
		hook.OnStart = func(ctx context.Context) error { return s.named(s.open(ctx)) }
	}
	if s.close != nil {
		hook.OnStop = func(ctx context.Context) error {
			ctx, cancel := s.withShare(ctx)
			defer cancel()
			return s.named(s.close(ctx))
		}
	}
	return hook
}

func (s step) named(err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

func (s step) withShare(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	if !bounded || s.share == 0 {
		return context.WithCancel(ctx)
	}
	left := time.Duration(s.share * float64(time.Until(deadline)))
	return context.WithTimeout(ctx, left)
}

func withoutContext(end func() error) func(context.Context) error {
	return func(context.Context) error { return end() }
}

// handOver hands leadership over before anything else stops. If it can't, the instance
// stops all the same: the others elect a leader once this one is gone.
func handOver(p parts) func(context.Context) error {
	return func(ctx context.Context) error {
		switch successor, err := p.Cluster.HandOver(ctx, ""); {
		case errors.Is(err, ports.ErrNotLeader):
		case err != nil:
			p.Log.Info("leadership was not handed over", "reason", err)
		default:
			p.Log.Info("leadership was handed over", "to", successor)
		}
		return nil
	}
}
