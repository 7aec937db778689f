package servers

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/parallel"
)

// Etcd runs the etcd at Path, with its defaults.
type Etcd struct{ Path string }

// Name implements Kind.
func (Etcd) Name() string { return "etcd" }

var version = regexp.MustCompile(`etcd Version: (\S+)`)

// Version returns the version that the program reports.
func (k Etcd) Version() string {
	output, _ := exec.Command(k.Path, "--version").Output()
	if found := version.FindSubmatch(output); found != nil {
		return string(found[1])
	}
	return "of an unknown version"
}

// Cluster implements Kind.
func (k Etcd) Cluster(directory string, members int) (*Cluster, error) {
	addresses, err := addresses(2 * members)
	if err != nil {
		return nil, err
	}
	peers, clients := addresses[:members], addresses[members:]
	var cluster []string
	for i := range members {
		cluster = append(cluster, memberName(i)+"=http://"+peers[i])
	}
	c := &Cluster{Protocol: &overGRPC{addresses: clients}}
	for i := range members {
		p := process(memberName(i), k.Path, directory,
			"--name="+memberName(i),
			"--listen-peer-urls=http://"+peers[i],
			"--initial-advertise-peer-urls=http://"+peers[i],
			"--listen-client-urls=http://"+clients[i],
			"--advertise-client-urls=http://"+clients[i],
			"--initial-cluster="+strings.Join(cluster, ","))
		p.args = append(p.args, "--data-dir="+p.data)
		c.Members = append(c.Members, p)
	}
	return c, nil
}

// overGRPC speaks etcd's API with its protobuf messages but without its client,
// which would cost the load generator more. Clients share connections, as they do
// with etcd's client.
type overGRPC struct {
	addresses []string
	nodes     int

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
	dials int
}

// sharedConns is the number of connections that all clients of a member share.
const sharedConns = 16

func (g *overGRPC) conn(member, number int) (*grpc.ClientConn, error) {
	key := fmt.Sprint(member, "/", number)
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.conns[key]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+g.addresses[member],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			// The default of a second would count as time of the server.
			Backoff:           backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, err
	}
	if g.conns == nil {
		g.conns = map[string]*grpc.ClientConn{}
	}
	g.conns[key] = c
	return c, nil
}

func (g *overGRPC) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

func (g *overGRPC) next() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials++
	return g.dials
}

func (g *overGRPC) Dial(member int) (Client, error) {
	conn, err := g.conn(member, g.next()%sharedConns)
	if err != nil {
		return nil, err
	}
	return &grpcClient{kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn)}, nil
}

// inOneTxn is the greatest number of operations in a transaction of etcd.
const inOneTxn = 128

func (g *overGRPC) Grow(n int) error {
	leader := 0 // any member forwards writes
	first := g.nodes
	batches := (n - first + inOneTxn - 1) / inOneTxn
	err := parallel.Do(batches, 16, func(i int) error {
		c, err := g.Dial(leader)
		if err != nil {
			return err
		}
		from := first + i*inOneTxn
		return c.Batch(from, min(inOneTxn, n-from), 1)
	})
	g.nodes = max(g.nodes, n)
	return err
}

func (g *overGRPC) Ready(member int) (bool, error) {
	conn, err := g.conn(member, 0)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return false, err
	}
	if status.Leader == 0 {
		return false, fmt.Errorf("it knows no leader")
	}
	// The first linearizable read of a member proves that it takes part.
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("nodes/")})
	return status.Leader == status.Header.MemberId, err
}

// streamsOfConn is the number of streams that share a connection. nodesmetadata
// gets one connection for each stream, which costs it more.
const streamsOfConn = 10

func (g *overGRPC) Subscribe(member int) (Stream, error) {
	conn, err := g.conn(member, sharedConns+g.next()/streamsOfConn)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("nodes/"), RangeEnd: []byte("nodes0")},
		}})
	}
	var answer *pb.WatchResponse
	if err == nil {
		answer, err = watch.Recv()
	}
	if err == nil && !answer.Created {
		err = fmt.Errorf("etcd: the watch was not created: %v", answer)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &grpcStream{watch: watch, cancel: cancel}, nil
}

type grpcStream struct {
	watch   pb.Watch_WatchClient
	cancel  func()
	pending []Event
}

func (s *grpcStream) Close() { s.cancel() }

func (s *grpcStream) Next() (Event, error) {
	for len(s.pending) == 0 {
		answer, err := s.watch.Recv()
		if err != nil {
			return Event{}, err
		}
		if answer.Canceled {
			return Event{}, fmt.Errorf("etcd cancelled the watch: %s", answer.CancelReason)
		}
		for _, e := range answer.Events {
			s.pending = append(s.pending, Event{Revision: e.Kv.ModRevision})
		}
	}
	first := s.pending[0]
	s.pending = s.pending[1:]
	return first, nil
}

type grpcClient struct {
	kv       pb.KVClient
	lease    pb.LeaseClient
	timeout  time.Duration
	revision int64
	alive    pb.Lease_LeaseKeepAliveClient
	stop     func()
}

func (c *grpcClient) SetTimeout(t time.Duration) { c.timeout = t }

func (c *grpcClient) Close() {
	if c.stop != nil {
		c.stop()
	}
}

func (c *grpcClient) context() (context.Context, context.CancelFunc) {
	if c.timeout == 0 {
		return context.Background(), func() {}
	}
	return context.WithTimeout(context.Background(), c.timeout)
}

func key(node int) []byte { return []byte("nodes/" + nodeID(node)) }

func (c *grpcClient) Put(node, weight int) error {
	ctx, cancel := c.context()
	defer cancel()
	answer, err := c.kv.Put(ctx, &pb.PutRequest{Key: key(node), Value: stored(node, weight)})
	if err != nil {
		return err
	}
	return c.changed(answer.Header)
}

func (c *grpcClient) changed(h *pb.ResponseHeader) error {
	if h.Revision <= c.revision {
		return fmt.Errorf("a write after revision %d was answered revision %d", c.revision, h.Revision)
	}
	c.revision = h.Revision
	return nil
}

func (c *grpcClient) Batch(from, size, weight int) error {
	if size > inOneTxn {
		return ErrUnsupported
	}
	txn := &pb.TxnRequest{}
	for n := range size {
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: key(from + n), Value: stored(from+n, weight)},
		}})
	}
	ctx, cancel := c.context()
	defer cancel()
	answer, err := c.kv.Txn(ctx, txn)
	if err != nil {
		return err
	}
	return c.changed(answer.Header)
}

func (c *grpcClient) Get(node int, f Freshness) error {
	answer, err := c.read(&pb.RangeRequest{Key: key(node), Serializable: f == Stale}, 1)
	if err != nil {
		return err
	}
	if answer.Header.Revision < c.revision && f != Stale {
		return fmt.Errorf("a read after revision %d was answered revision %d", c.revision, answer.Header.Revision)
	}
	c.revision = answer.Header.Revision
	return nil
}

func (c *grpcClient) List(nodes int) error {
	_, err := c.read(&pb.RangeRequest{Key: []byte("nodes/"), RangeEnd: []byte("nodes0")}, nodes)
	return err
}

func (c *grpcClient) read(request *pb.RangeRequest, want int) (*pb.RangeResponse, error) {
	ctx, cancel := c.context()
	defer cancel()
	answer, err := c.kv.Range(ctx, request)
	if err == nil && len(answer.Kvs) != want {
		err = fmt.Errorf("etcd gave %d nodes, not %d", len(answer.Kvs), want)
	}
	return answer, err
}

func (c *grpcClient) Lease(node int) error {
	ctx, cancel := c.context()
	defer cancel()
	lease, err := c.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 3600, ID: int64(node) + 1})
	if err != nil {
		return err
	}
	_, err = c.kv.Put(ctx, &pb.PutRequest{Key: key(node), Value: stored(node, 1), Lease: lease.ID})
	return err
}

func (c *grpcClient) Renew(node int) error {
	if c.alive == nil {
		ctx, cancel := context.WithCancel(context.Background())
		alive, err := c.lease.LeaseKeepAlive(ctx)
		if err != nil {
			cancel()
			return err
		}
		c.alive, c.stop = alive, cancel
	}
	if err := c.alive.Send(&pb.LeaseKeepAliveRequest{ID: int64(node) + 1}); err != nil {
		return err
	}
	answer, err := c.alive.Recv()
	if err == nil && answer.TTL == 0 {
		err = fmt.Errorf("etcd has no lease of node %d", node)
	}
	return err
}
