package daemon

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/wal"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// backends are the values of --storage_backend. Only this package knows the backends
// themselves; config.Backends has their names.
var backends = logstore.Backends{
	{Name: "bolt", Open: bolt.Open, Inspect: bolt.Inspect},
	{Name: "badger", Open: badger.Open, Inspect: badger.Inspect},
	{Name: "wal", Open: wal.Open, Inspect: wal.Inspect},
	{Name: "memory", Open: memory.Open, Inspect: memory.Open, Volatile: true},
}

// volatileBackends returns the names of the backends that keep nothing on disk.
func volatileBackends() []string {
	var names []string
	for _, b := range backends {
		if b.Volatile {
			names = append(names, b.Name)
		}
	}
	return names
}

// fatal is called when the instance can't go on.
type fatal func(error)

// graph is everything that an instance is made of. Constructors acquire nothing, so
// nothing has to be released if a later one fails.
func graph(chosen config.Config, logs io.Writer, fail fatal) fx.Option {
	return fx.Options(
		fx.Supply(chosen, fail),
		fx.Supply(fx.Annotate(logs, fx.As(new(io.Writer)))),
		fx.Provide(
			newLogWriter,
			newLogger,
			newLatencies,
			newMetrics,
			newDemux,
			newNode,
			newSecret,
			peerapi.NewClient,
			newInquiry,
			newCluster,
			app.NewLeaderLocator,
			newLeases,
			newBackups,
			newPeerServer,
			newApplicationServer,
			newJoiner,
		),
		fx.WithLogger(newFxLogger),
		fx.StopTimeout(chosen.ShutdownTimeout), // for a start that failed halfway
		fx.Invoke(lifecycle),
	)
}

func newDemux(c config.Config, log *slog.Logger) (*demux.Demux, error) {
	return demux.New(demux.Config{
		Address: c.RaftBindAddress,
		Logger:  log.With("component", "demux"),
	})
}

func newNode(c config.Config, port *demux.Demux, peers *peerapi.Client, took *latencies, log *slog.Logger, fail fatal) (*consensus.Node, error) {
	chosen, err := backends.Named(c.StorageBackend)
	if err != nil {
		return nil, fmt.Errorf("storage backend: %w", err)
	}
	return consensus.New(consensus.Config{
		ID:                c.RaftID,
		AdvertisedAddress: c.RaftAdvertisedAddress,
		Directory:         c.RaftDir,
		Backend:           chosen,
		VolatileBackends:  volatileBackends(),
		Demux:             port,
		Peers:             peers,
		Bootstrap:         c.BootstrapRaftCluster,
		Secret:            c.Secret,
		Timing:            c.Timing,
		Logger:            log,
		Observer:          took,
		Fatal:             fail,
	})
}

// newInquiry gives the process its identity, so it must be called once: see ports.Identity.
func newInquiry(c config.Config, node *consensus.Node, peers *peerapi.Client) app.Inquiry {
	return app.Inquiry{
		Self: ports.Identity{
			RaftID:             c.RaftID,
			ApplicationAddress: c.ApplicationAdvertisedAddress,
			Version:            Version(),
			Format:             consensus.Format,
			Process:            rand.Text(),
		},
		Local:   node,
		Peers:   peers,
		Formats: node,
	}
}

func newCluster(inquiry app.Inquiry, node *consensus.Node, log *slog.Logger) *app.Cluster {
	return app.NewCluster(app.ClusterConfig{
		Inquiry:     inquiry,
		Membership:  node,
		Leadership:  node,
		Promotions:  node,
		ReadIndexer: node,
		Logger:      log.With("component", "cluster"),
	})
}

func newLeases(c config.Config, node *consensus.Node, log *slog.Logger) *app.Leases {
	return app.NewLeases(app.LeaseConfig{
		Registry: node, Local: node, Logger: log.With("component", "leases"),
		// Raft leaves up to a fifth of HeartbeatTimeout between two heartbeats. A leader
		// that has not heard from a majority for a third of it can't be sure to lead.
		CutOff: c.Timing.HeartbeatTimeout / 3,
	})
}

// newSecret returns the preface with which instances prove that they know the secret before
// they ask each other; nil without a secret.
func newSecret(c config.Config) *preface.Preface {
	if len(c.Secret) == 0 {
		return nil
	}
	return &preface.Preface{Purpose: preface.Questions, RaftID: c.RaftID, Secret: c.Secret}
}

func newBackups(node *consensus.Node, leases *app.Leases, log *slog.Logger) *app.Backups {
	return app.NewBackups(app.BackupConfig{
		Registry: node, Restorer: node, Local: node, Leases: leases, Logger: log.With("component", "backups"),
	})
}

func newPeerServer(c config.Config, port *demux.Demux, secret *preface.Preface, node *consensus.Node, inquiry app.Inquiry, log *slog.Logger) (*peerapi.Server, error) {
	lane, err := port.Lane(peerapi.Lane, peerapi.LaneConfig(c.RaftID, secret))
	if err != nil {
		return nil, err
	}
	return peerapi.New(peerapi.Config{
		Listener:    lane,
		Self:        &inquiry,
		ReadIndexer: node,
		Local:       node,
		Logger:      log.With("component", "peerapi"),
	})
}

func newApplicationServer(c config.Config, node *consensus.Node, leases *app.Leases, backups *app.Backups, cluster *app.Cluster, locator *app.LeaderLocator, joiner *app.Joiner, metrics *prometheus.Registry, log *slog.Logger) (*httpapi.Server, error) {
	connections, err := maxConnections()
	if err != nil {
		return nil, err
	}
	return httpapi.New(httpapi.Config{
		BindAddress: c.ApplicationBindAddress,
		Nodes:       app.NewNodes(node, node, leases),
		Leases:      leases,
		Backups:     backups,
		Cluster:     cluster,
		Locator:     locator,
		Local:       node,
		Joining:     joiner,
		Metrics:     metrics,
		Version:     Version(),
		Logger:      log.With("component", "httpapi"),

		MaxConnections: connections,
	})
}

func newJoiner(c config.Config, node *consensus.Node, log *slog.Logger) *app.Joiner {
	return app.NewJoiner(app.JoinConfig{
		Self:       domain.Instance{ID: c.RaftID, RaftAddress: c.RaftAdvertisedAddress, Suffrage: domain.Voter},
		Through:    c.Join,
		Own:        c.ApplicationAdvertisedAddress,
		Local:      node,
		Admission:  httpapi.NewJoinClient(),
		JoinIntent: node,
		Logger:     log,
	})
}
