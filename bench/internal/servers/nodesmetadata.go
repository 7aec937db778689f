package servers

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/lean"
)

// Nodesmetadata runs the program at Path.
type Nodesmetadata struct {
	Path    string
	Backend string // "" is the program's default
}

// Name implements Kind.
func (Nodesmetadata) Name() string { return "nodesmetadata" }

// Cluster implements Kind.
func (k Nodesmetadata) Cluster(directory string, members int) (*Cluster, error) {
	addresses, err := addresses(2 * members)
	if err != nil {
		return nil, err
	}
	raft, application := addresses[:members], addresses[members:]
	c := &Cluster{Protocol: &overHTTP{addresses: application}}
	for i := range members {
		p := process(memberName(i), k.Path, directory,
			"--raft_id="+memberName(i),
			"--raft_bind_address="+raft[i],
			"--application_bind_address="+application[i])
		p.args = append(p.args, "--raft_dir="+p.data)
		if k.Backend != "" {
			p.args = append(p.args, "--storage_backend="+k.Backend)
		}
		if i == 0 {
			p.args = append(p.args, "--bootstrap_raft_cluster")
		} else {
			p.args = append(p.args, "--join="+application[0])
		}
		c.Members = append(c.Members, p)
	}
	return c, nil
}

// overHTTP speaks the application API. The bare server supports a part of it.
type overHTTP struct {
	addresses []string
	nodes     int
	list      atomic.Int64 // length of the answer to GET /nodes, once it is known
}

func (h *overHTTP) Close() {}

// atOnce is the greatest number of changes in a batch.
const atOnce = 1000

func (h *overHTTP) Grow(n int) error {
	for h.nodes < n {
		var err error
		for i := range h.addresses { // only the leader does it
			var c *httpClient
			if c, err = h.dial(i); err != nil {
				continue
			}
			err = c.Batch(h.nodes, min(atOnce, n-h.nodes), 1)
			c.Close()
			if err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
		h.nodes += min(atOnce, n-h.nodes)
	}
	h.list.Store(0)
	return nil
}

func (h *overHTTP) Dial(member int) (Client, error) {
	c, err := h.dial(member)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (h *overHTTP) dial(member int) (*httpClient, error) {
	conn, err := lean.Dial(h.addresses[member], 64<<10)
	if err != nil {
		return nil, err
	}
	return &httpClient{of: h, conn: conn}, nil
}

// Ready says that a leader is ready only when all other members are voters, which
// an instance that has just joined is not.
func (h *overHTTP) Ready(member int) (bool, error) {
	conn, err := lean.Dial(h.addresses[member], 4<<10)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	conn.Timeout = 3 * time.Second
	var state struct{ Leading bool }
	if err := ask(conn, "/readyz", &state); err != nil || !state.Leading {
		return false, err
	}
	var cluster struct {
		NodesMetadata map[string]struct{ Suffrage string }
	}
	if err := ask(conn, "/raft/metadata?consistency=stale", &cluster); err != nil {
		return false, err
	}
	voters := 0
	for _, instance := range cluster.NodesMetadata {
		if instance.Suffrage == "voter" {
			voters++
		}
	}
	if voters < len(h.addresses) {
		return false, fmt.Errorf("%d of %d instances are voters", voters, len(h.addresses))
	}
	return true, nil
}

func ask(conn *lean.Conn, path string, answer any) error {
	body, err := conn.Fetch(get(path))
	if err != nil {
		return err
	}
	return json.Unmarshal(body, answer)
}

func (h *overHTTP) Subscribe(member int) (Stream, error) {
	revision, err := h.revision(member)
	if err != nil {
		return nil, err
	}
	conn, err := lean.Dial(h.addresses[member], 4<<10)
	if err != nil {
		return nil, err
	}
	body, err := conn.Stream(get("/nodes/sse?redirect=false&since=" + strconv.FormatInt(revision, 10)))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &httpStream{conn: conn, events: lean.NewEvents(body)}, nil
}

func (h *overHTTP) revision(member int) (int64, error) {
	c, err := h.dial(member)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	answer, err := c.conn.Do(get("/nodes/"+nodeID(0)+"?redirect=false"), nil)
	return answer.Revision, err
}

type httpStream struct {
	conn   *lean.Conn
	events *lean.Events
}

func (s *httpStream) Next() (Event, error) {
	e, err := s.events.Next()
	return Event{Revision: e.ID, Snapshot: e.Snapshot}, err
}

func (s *httpStream) Close() { s.conn.Close() }

type httpClient struct {
	of       *overHTTP
	conn     *lean.Conn
	body     []byte
	request  []byte
	begins   []byte
	revision int64 // the last one that this client was told of
}

func (c *httpClient) SetTimeout(t time.Duration) { c.conn.Timeout = t }
func (c *httpClient) Close()                     { c.conn.Close() }

func (c *httpClient) Put(node, weight int) error {
	c.body = appendNode(c.body[:0], node, weight)
	c.request = appendBodied(c.request[:0], "PUT", "/nodes/"+nodeID(node), c.body)
	c.begins = appendBegin(c.begins[:0], node)
	return c.change()
}

func (c *httpClient) Batch(from, size, weight int) error {
	c.body = append(c.body[:0], `{"changes":[`...)
	for i := range size {
		if i > 0 {
			c.body = append(c.body, ',')
		}
		c.body = append(c.body, `{"put":`...)
		c.body = append(appendNode(c.body, from+i, weight), '}')
	}
	c.body = append(c.body, "]}"...)
	c.request = appendBodied(c.request[:0], "POST", "/nodes/batch", c.body)
	c.begins = append(c.begins[:0], `{"revision":`...)
	return c.change()
}

// change fails unless the registry has changed since the last revision that this client saw.
func (c *httpClient) change() error {
	answer, err := c.conn.Do(c.request, c.begins)
	if err != nil {
		return err
	}
	if answer.Revision <= c.revision {
		return fmt.Errorf("a write after revision %d was answered revision %d", c.revision, answer.Revision)
	}
	c.revision = answer.Revision
	return nil
}

func (c *httpClient) Lease(node int) error {
	c.body = fmt.Appendf(c.body[:0], `{"address":"%s:11211","ttlSeconds":3600}`, nodeID(node))
	c.request = appendBodied(c.request[:0], "PUT", "/nodes/"+nodeID(node), c.body)
	c.begins = appendBegin(c.begins[:0], node)
	return c.change()
}

func (c *httpClient) Renew(node int) error {
	c.request = appendBodied(c.request[:0], "POST", "/nodes/"+nodeID(node)+"/heartbeat", nil)
	c.begins = appendBegin(c.begins[:0], node)
	_, err := c.conn.Do(c.request, c.begins)
	return err
}

var freshness = map[Freshness]string{Linearizable: "", FromFollower: "?redirect=false", Stale: "?consistency=stale"}

func (c *httpClient) Get(node int, f Freshness) error {
	c.request = appendGet(c.request[:0], "/nodes/", nodeID(node), freshness[f])
	c.begins = appendBegin(c.begins[:0], node)
	answer, err := c.conn.Do(c.request, c.begins)
	if err != nil {
		return err
	}
	if answer.Revision < c.revision && f != Stale {
		return fmt.Errorf("a read after revision %d was answered revision %d", c.revision, answer.Revision)
	}
	c.revision = answer.Revision
	return nil
}

// List counts the nodes in the first answer, and from then on compares only the
// length of the body: an unchanged list keeps its length, and decoding it costs
// more than serving it.
func (c *httpClient) List(nodes int) error {
	known := c.of.list.Load()
	if known == 0 {
		return c.count(nodes)
	}
	answer, err := c.conn.Do(get("/nodes"), listBegin)
	if err == nil && int64(answer.Length) != known {
		err = fmt.Errorf("the list has %d bytes, and had %d", answer.Length, known)
	}
	return err
}

var listBegin = []byte(`{"node00000":{`)

func (c *httpClient) count(nodes int) error {
	body, err := c.conn.Fetch(get("/nodes"))
	if err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	if len(all) != nodes {
		return fmt.Errorf("the list has %d nodes, not %d", len(all), nodes)
	}
	c.of.list.Store(int64(len(body)))
	return nil
}

func appendBegin(to []byte, node int) []byte {
	to = append(to, `{"id":"`...)
	return append(append(to, nodeID(node)...), `",`...)
}

func get(path string) []byte { return appendGet(nil, path) }

func appendGet(to []byte, path ...string) []byte {
	to = append(to, "GET "...)
	for _, part := range path {
		to = append(to, part...)
	}
	return append(to, " HTTP/1.1\r\nHost: bench\r\n\r\n"...)
}

func appendBodied(to []byte, method, path string, body []byte) []byte {
	to = fmt.Appendf(to, "%s %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", method, path, len(body))
	return append(to, body...)
}
