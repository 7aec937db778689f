package app_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peersFunc is ports.Peers in one function.
type peersFunc func(ctx context.Context, raftAddress string) (ports.Identity, error)

func (f peersFunc) Identify(ctx context.Context, raftAddress string) (ports.Identity, error) {
	return f(ctx, raftAddress)
}

func (f peersFunc) ReadIndex(context.Context, string) (ports.ReadIndex, error) {
	return ports.ReadIndex{}, errors.New("these tests ask for no read index")
}

// fixedLocal is ports.Local in a state that never changes.
type fixedLocal ports.LocalState

func (l fixedLocal) State() (ports.LocalState, <-chan struct{}) {
	return ports.LocalState(l), make(chan struct{})
}

func (l fixedLocal) SureLeader() bool { return l.Leading }

func (l fixedLocal) LeaderContact() (time.Duration, bool) { return 0, true }

// newNodes gives the use cases over cache nodes of an instance.
func newNodes(i *portstest.Instance) *app.Nodes { return app.NewNodes(i, i, newLeases(i)) }

func newLeases(i *portstest.Instance) *app.Leases {
	return app.NewLeases(app.LeaseConfig{Registry: i, Local: i, Logger: slog.New(slog.DiscardHandler)})
}

func inquiryOf(i member, peers ports.Peers) app.Inquiry {
	return app.Inquiry{
		Self:    ports.Identity{RaftID: "n1", ApplicationAddress: "app1:80", Version: "v1", Process: "P0"},
		Local:   i,
		Peers:   peers,
		Formats: i,
	}
}

// member is a portstest.Instance, or one that overrides some of its methods.
type member interface {
	ports.Local
	ports.Membership
	ports.Leadership
	ports.Promotions
	ports.Formats
	ports.ReadIndexer
}

// configOf gives the configuration of the use cases of i, which is n1.
func configOf(i member, peers ports.Peers) app.ClusterConfig {
	return app.ClusterConfig{
		Inquiry:     inquiryOf(i, peers),
		Membership:  i,
		Leadership:  i,
		Promotions:  i,
		ReadIndexer: i,
		Logger:      slog.New(slog.DiscardHandler),
	}
}

func newCluster(i member, peers ports.Peers) *app.Cluster { return app.NewCluster(configOf(i, peers)) }

func voter(id, raftAddress string) domain.Instance {
	return domain.Instance{ID: id, RaftAddress: raftAddress, Suffrage: domain.Voter}
}

// answer gives the identity of an instance in these tests.
func answer(id string) ports.Identity {
	return ports.Identity{RaftID: id, ApplicationAddress: "app-of-" + id + ":80", ClusterID: "cluster-of-n1", Version: "v1"}
}

// answered gives how a member with that answer is described.
func answered(i domain.Instance) domain.Member {
	return domain.Member{Instance: i, Reachable: true, ApplicationAddress: answer(i.ID).ApplicationAddress, Version: "v1"}
}

func mustAdd(t *testing.T, i *portstest.Instance, instances ...domain.Instance) {
	t.Helper()
	for _, instance := range instances {
		if err := i.Add(t.Context(), instance); err != nil {
			t.Fatal(err)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
