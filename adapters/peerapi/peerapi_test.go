package peerapi_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

var _ ports.Peers = (*peerapi.Client)(nil)

// self is an instance that a test can rename while it is served.
type self struct {
	mu       sync.Mutex
	identity ports.Identity
}

func (s *self) Identity() ports.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

func (s *self) become(identity ports.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = identity
}

// progress implements ports.ReadIndexer with a function that a test can change while it is
// served. Without a function the instance does not lead.
type progress struct {
	prove atomic.Pointer[func(context.Context) (uint64, error)]
}

func (p *progress) ReadIndex(ctx context.Context) (uint64, error) {
	prove := p.prove.Load()
	if prove == nil {
		return 0, ports.ErrNotLeader
	}
	return (*prove)(ctx)
}

// answers makes prove answer every request.
func (p *progress) answers(prove func(context.Context) (uint64, error)) { p.prove.Store(&prove) }

func (p *progress) leads(index uint64) {
	p.answers(func(context.Context) (uint64, error) { return index, nil })
}

func (p *progress) fails(err error) {
	p.answers(func(context.Context) (uint64, error) { return 0, err })
}

// members implements ports.Local for an instance of a cluster of two.
type members struct{ ports.Local }

func (members) State() (ports.LocalState, <-chan struct{}) {
	both := domain.NewRoster(domain.Instance{ID: "n1"}, domain.Instance{ID: "n2"})
	return ports.LocalState{Committed: []ports.CommittedRoster{{Index: 1}, {Index: 3, Roster: both}}}, nil
}

var someone = ports.Identity{
	RaftID:             "n1",
	ApplicationAddress: "10.0.0.1:8080",
	ClusterID:          "6a1f",
	Version:            "v1.2.3",
	Applied:            4711,
	Format:             2,
	Process:            "P7Q2",
}

// instance is the raft port of an instance, with nothing on it but this API.
type instance struct {
	*self
	*progress
	demux  *demux.Demux
	server *peerapi.Server
}

func start(t *testing.T, address string) *instance {
	t.Helper()
	return startGuarded(t, address, nil)
}

// startGuarded is start, for an instance that shares a secret.
func startGuarded(t *testing.T, address string, secret *preface.Preface) *instance {
	t.Helper()
	port, err := demux.New(demux.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	lane, err := port.Lane(peerapi.Lane, peerapi.LaneConfig("n1", secret))
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{self: &self{identity: someone}, progress: &progress{}, demux: port}
	if i.server, err = peerapi.New(peerapi.Config{Listener: lane, Self: i.self, ReadIndexer: i.progress, Local: members{}}); err != nil {
		t.Fatal(err)
	}
	if err := port.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := i.server.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.server.Close(context.Background()); err != nil {
			t.Errorf("close the server: %v", err)
		}
		if err := i.demux.Close(); err != nil {
			t.Errorf("close the demux: %v", err)
		}
	})
	return i
}

func (i *instance) address() string { return i.demux.Addr().String() }

func (i *instance) connections() uint64 { return i.demux.Stats().Lanes[peerapi.Lane].HandedOver }

func client(t *testing.T) *peerapi.Client {
	t.Helper()
	c := peerapi.NewClient(nil)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	return c
}

func within(t *testing.T, bound time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	return ctx
}

func TestIdentifyGivesTheIdentity(t *testing.T) {
	for family, address := range map[string]string{"over IPv4": "127.0.0.1:0", "over IPv6": "[::1]:0"} {
		t.Run(family, func(t *testing.T) {
			i, c := start(t, address), client(t)
			got, err := c.Identify(within(t, 5*time.Second), i.address())
			if err != nil || got != someone {
				t.Fatalf("Identify = %+v, %v, want %+v", got, err, someone)
			}
		})
	}
}

func TestANameIsResolved(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	_, port, err := net.SplitHostPort(i.address())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Identify(within(t, 5*time.Second), net.JoinHostPort("localhost", port)); err != nil {
		t.Fatal(err)
	}
}

func TestIdentifyGivesTheCurrentIdentity(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	homeless := someone
	homeless.ClusterID, homeless.ApplicationAddress = "", "cache-3.example:80"
	quarantined := someone
	quarantined.Quarantined = true
	for _, want := range []ports.Identity{someone, homeless, quarantined, someone} {
		i.become(want)
		got, err := c.Identify(within(t, 5*time.Second), i.address())
		if err != nil || got != want {
			t.Fatalf("Identify = %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestRequestsShareAConnection(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	for range 20 {
		if _, err := c.Identify(within(t, 5*time.Second), i.address()); err != nil {
			t.Fatal(err)
		}
	}
	if n := i.connections(); n != 1 {
		t.Fatalf("connections for 20 requests = %d, want 1", n)
	}
}

func TestConcurrentRequestsAreAnswered(t *testing.T) {
	i, c := start(t, "127.0.0.1:0"), client(t)
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			if _, err := c.Identify(within(t, 10*time.Second), i.address()); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
}

func TestARestartedInstanceIsReachedAgain(t *testing.T) {
	c := client(t)
	first := start(t, "127.0.0.1:0")
	address := first.address()
	if _, err := c.Identify(within(t, 5*time.Second), address); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.server.Close(t.Context()), first.demux.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Identify(within(t, 5*time.Second), address); err == nil {
		t.Fatal("Identify of a closed instance succeeded")
	}
	start(t, address)
	if _, err := c.Identify(within(t, 5*time.Second), address); err != nil {
		t.Fatal(err)
	}
}

func TestAClosedClientSendsNothing(t *testing.T) {
	i := start(t, "127.0.0.1:0")
	c := peerapi.NewClient(nil)
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Identify(within(t, 5*time.Second), i.address()); !errors.Is(err, ports.ErrClosed) {
		t.Fatalf("error = %v, want %v", err, ports.ErrClosed)
	}
	if n := i.connections(); n != 0 {
		t.Fatalf("connections after Close = %d, want none", n)
	}
}

func TestAConfigNamesAllItsFaults(t *testing.T) {
	_, err := peerapi.New(peerapi.Config{})
	if want := "peerapi: no listener\nno self\nno read indexer\nno local state"; err == nil || err.Error() != want {
		t.Fatalf("New = %v, want %s", err, want)
	}
}
