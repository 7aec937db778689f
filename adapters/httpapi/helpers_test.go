package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// service is a server on a loopback socket, over the real use cases and a fake instance.
type service struct {
	*httpapi.Server
	instance *portstest.Instance
	peers    *portstest.Peers
	cluster  *app.Cluster
	leases   *app.Leases
	metrics  *prometheus.Registry
	log      *logBook
	address  string
	client   *http.Client
}

// start opens a service, and closes it when the test ends.
func start(t testing.TB, change ...func(*httpapi.Config)) *service {
	t.Helper()
	s := prepare(t, change...)
	s.open(t)
	return s
}

// startFollower opens a service on another instance of the cluster of s, which follows s. Both
// know where the other one is.
func (s *service) startFollower(t testing.TB) *service {
	t.Helper()
	const raftAddress = "127.0.0.1:7002"
	follower := over(t, s.instance.NewFollower("n2", raftAddress), s.peers, "n2")
	follower.open(t)
	s.peers.Answer("127.0.0.1:7000", ports.Identity{RaftID: "n1", ApplicationAddress: "n1.test:8080", Version: "v1"})
	s.peers.Answer(raftAddress, ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8080", Version: "v1"})
	return follower
}

// open opens the service, and closes it when the test ends.
func (s *service) open(t testing.TB) {
	t.Helper()
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.address = s.Addr().String()
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.closesWithin(t, patience)
	})
}

func prepare(t testing.TB, change ...func(*httpapi.Config)) *service {
	t.Helper()
	return over(t, portstest.NewInstance("n1", "127.0.0.1:7000"), portstest.NewPeers(), "n1", change...)
}

// over prepares a service for an instance whose application address is "<id>.test:8080". Its
// cluster may have other instances.
func over(t testing.TB, instance *portstest.Instance, peers *portstest.Peers, id string, change ...func(*httpapi.Config)) *service {
	t.Helper()
	s := &service{
		instance: instance,
		peers:    peers,
		metrics:  prometheus.NewRegistry(),
		log:      &logBook{},
	}
	self := ports.Identity{RaftID: id, ApplicationAddress: id + ".test:8080", Version: "v1"}
	inquiry := app.Inquiry{Self: self, Formats: s.instance, Local: s.instance, Peers: s.peers}
	s.cluster = app.NewCluster(app.ClusterConfig{
		Inquiry:     inquiry,
		Membership:  s.instance,
		Leadership:  s.instance,
		Promotions:  s.instance,
		ReadIndexer: s.instance,
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err := s.cluster.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cluster.Close(context.Background()) })
	s.leases = app.NewLeases(app.LeaseConfig{Registry: s.instance, Local: s.instance, Logger: slog.New(slog.DiscardHandler)})
	if err := s.leases.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.leases.Close(context.Background()) })
	config := httpapi.Config{
		BindAddress: "127.0.0.1:0",
		Nodes:       app.NewNodes(s.instance, s.instance, s.leases),
		Leases:      s.leases,
		Backups: app.NewBackups(app.BackupConfig{
			Registry: s.instance, Restorer: s.instance, Local: s.instance, Leases: s.leases, Logger: slog.New(slog.DiscardHandler),
		}),
		Cluster: s.cluster,
		Locator: app.NewLeaderLocator(inquiry),
		Local:   s.instance,
		Metrics: s.metrics,
		Version: "v1",
		Logger:  slog.New(slog.NewTextHandler(s.log, nil)),
	}
	for _, c := range change {
		c(&config)
	}
	var err error
	if s.Server, err = httpapi.New(config); err != nil {
		t.Fatal(err)
	}
	s.client = &http.Client{
		Transport:     asDescribed(t, &http.Transport{MaxIdleConnsPerHost: 256}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

// follow makes the instance a follower of n2, which has this application address, or does not
// answer if it is empty.
func (s *service) follow(applicationAddress string) {
	const raftAddress = "127.0.0.1:7002"
	if applicationAddress == "" {
		s.peers.Silence(raftAddress)
	} else {
		s.peers.Answer(raftAddress, ports.Identity{RaftID: "n2", ApplicationAddress: applicationAddress})
	}
	s.instance.Change(func(state *ports.LocalState) {
		state.Leading, state.LeaderID, state.LeaderRaftAddress = false, "n2", raftAddress
		state.Term++
	})
}

func (s *service) loseLeader() {
	s.instance.Change(func(state *ports.LocalState) {
		state.Leading, state.LeaderID, state.LeaderRaftAddress = false, "", ""
	})
}

func (s *service) lead() {
	s.instance.Change(func(state *ports.LocalState) {
		state.Leading, state.LeaderID = true, "n1"
		state.Term++
	})
}

// register puts a node into the registry directly, without HTTP.
func (s *service) register(t testing.TB, spec domain.NodeSpec) domain.Change {
	t.Helper()
	node, err := domain.NewCacheNode(spec)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := s.instance.Propose(context.Background(), domain.Register{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	return changes[0]
}

// fill registers n nodes.
func (s *service) fill(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		s.register(t, domain.NodeSpec{
			ID:      fmt.Sprintf("node%06d", i),
			Address: fmt.Sprintf("10.%d.%d.%d:11211", i>>16, i>>8&255, i&255),
			Zone:    "eu-1a",
			Labels:  map[string]string{"rack": "r7"},
		})
	}
}

// useHTTP2 makes the client use HTTP/2 from now on.
func (s *service) useHTTP2() {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	if d, is := s.client.Transport.(*described); is {
		d.next = transport
		return
	}
	s.client.Transport = transport
}

// reply is a response whose body was read completely.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) problem(t testing.TB) (code, detail string) {
	t.Helper()
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type = %q, want a problem, for status %d and body %s", got, r.status, r.body)
	}
	var p struct {
		Type, Title, Detail, Code, Error string
		Status                           int
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("problem = %s: %v", r.body, err)
	}
	if p.Type != "about:blank" || p.Status != r.status || p.Title != http.StatusText(r.status) || p.Detail == "" || p.Error != p.Detail {
		t.Errorf("problem = %s, want all members of a problem document", r.body)
	}
	return p.Code, p.Detail
}

func (s *service) do(t testing.TB, method, path, body string, header ...string) reply {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	return s.send(t, method, path, content, header...)
}

func (s *service) send(t testing.TB, method, path string, body io.Reader, header ...string) reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	setHeader(request.Header, header)
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(content)}
}

// handle sends a request to a service that is not open, without a socket: a synctest bubble
// can't wait for sockets.
func (s *service) handle(t testing.TB, method, path string) reply {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return reply{w.Code, w.Header(), w.Body.String()}
}

// setHeader sets header lines of the form "Name: value".
func setHeader(h http.Header, lines []string) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
}

// closesWithin closes the service, and fails the test if that takes longer than d.
func (s *service) closesWithin(t testing.TB, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// beginClose begins to close the service and returns when it no longer listens. closed delivers
// the result of Close.
func (s *service) beginClose(t testing.TB) (closed <-chan error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Close(context.Background()) }()
	eventually(t, "the server no longer listens", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	return ended
}

// dial opens a TCP connection and writes text to it.
func (s *service) dial(t testing.TB, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// eventually waits until holds returns true, and fails the test if it never does.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		runtime.Gosched()
		<-time.After(time.Millisecond)
	}
}

// metric returns the sum of all values of a metric whose labels contain the given strings.
func (s *service) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			text := m.String()
			matches := true
			for _, label := range labels {
				matches = matches && strings.Contains(text, `"`+label+`"`)
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// logBook is a writer that keeps what was logged. Safe for concurrent use.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// fakeNodes implements ports.Nodes with its own View.
type fakeNodes struct {
	ports.Nodes
	view func(context.Context) (domain.View, error)
}

func (f fakeNodes) View(ctx context.Context, _ ports.Read) (domain.View, error) { return f.view(ctx) }

// fakeBackups implements ports.Backups for tests that do not call it.
type fakeBackups struct{ ports.Backups }

// panickingStream implements ports.Nodes with a stream that panics after its snapshot.
type panickingStream struct {
	ports.Nodes
}

func (panickingStream) Follow(context.Context, *domain.Revision, ports.Source) (ports.NodeStream, error) {
	return &panickingStreamAt{}, nil
}

type panickingStreamAt struct{ begun bool }

func (s *panickingStreamAt) Next() (ports.Delivery, <-chan struct{}, error) {
	if s.begun {
		panic("ouch")
	}
	s.begun = true
	return ports.Delivery{Snapshot: &domain.View{}}, nil, nil
}

// only returns the only node of the registry.
func (s *service) only() (*domain.CacheNode, error) {
	state, _ := s.instance.State()
	for node := range state.View.Nodes() {
		if state.View.Len() == 1 {
			return node, nil
		}
	}
	return nil, fmt.Errorf("the registry has %d nodes, want one", state.View.Len())
}

// endlessRecorder is a recorder with a write deadline, which it ignores.
type endlessRecorder struct{ *httptest.ResponseRecorder }

func (endlessRecorder) SetWriteDeadline(time.Time) error { return nil }
