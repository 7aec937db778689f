package servers

import (
	"encoding/json"
	"fmt"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/lean"
)

// Bare runs the server at Path, which sends the same bytes as nodesmetadata.
type Bare struct{ Path string }

// Name implements Kind.
func (Bare) Name() string { return "bare" }

// Cluster implements Kind. It has a single process for any number of members.
func (k Bare) Cluster(directory string, _ int) (*Cluster, error) {
	a, err := address()
	if err != nil {
		return nil, err
	}
	p := process("bare", k.Path, directory, a)
	p.data = ""
	c := &Cluster{Members: []*Process{p}, Protocol: &bare{overHTTP{addresses: []string{a}}}}
	return c, nil
}

type bare struct{ overHTTP }

// Grow gives the server the answers that nodesmetadata would give.
func (b *bare) Grow(n int) error {
	b.nodes = max(b.nodes, n)
	b.list.Store(0)
	answers := map[string]json.RawMessage{}
	var list []byte
	for node := range b.nodes {
		body := stored(node, 1)
		answers["/nodes/"+nodeID(node)] = body
		list = fmt.Appendf(list, `,"%s":%s`, nodeID(node), body)
	}
	list[0] = '{'
	answers["/nodes"] = append(list, '}')
	return b.set(answers)
}

func (b *bare) set(answers map[string]json.RawMessage) error {
	body, err := json.Marshal(answers)
	if err != nil {
		return err
	}
	conn, err := lean.Dial(b.addresses[0], 4<<10)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Fetch(appendBodied(nil, "POST", "/set", body))
	return err
}

func (b *bare) Ready(int) (bool, error) {
	return true, b.set(map[string]json.RawMessage{"/readyz": []byte(`{"leading":true}`)})
}

func (b *bare) Dial(member int) (Client, error) {
	c, err := b.dial(member)
	if err != nil {
		return nil, err
	}
	return bareClient{c}, nil
}

// bareClient lacks the operations that need a registry.
type bareClient struct{ *httpClient }

func (bareClient) Batch(int, int, int) error { return ErrUnsupported }
func (bareClient) Lease(int) error           { return ErrUnsupported }
func (bareClient) Renew(int) error           { return ErrUnsupported }
