package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// nodeBody is a node as a client sends it. Absent and empty are not the same.
type nodeBody struct {
	ID      *string           `json:"id"`
	Address string            `json:"address"`
	Pool    *string           `json:"pool"`
	Weight  *int              `json:"weight"`
	Zone    string            `json:"zone"`
	Labels  map[string]string `json:"labels"`
	State   *domain.State     `json:"state"`

	TTLSeconds *int             `json:"ttlSeconds"`
	OnExpiry   *domain.OnExpiry `json:"onExpiry"`

	// Set by the server. They are accepted and ignored, so that a client can send back
	// what it got.
	Slot            float64 `json:"slot"`
	CreatedRevision float64 `json:"createdRevision"`
	Revision        float64 `json:"revision"`
}

func (b *nodeBody) spec() domain.NodeSpec {
	spec := domain.NodeSpec{
		Address: b.Address, Pool: b.Pool, Weight: b.Weight, Zone: b.Zone, Labels: b.Labels, State: b.State,
		TTLSeconds: b.TTLSeconds, OnExpiry: b.OnExpiry,
	}
	if b.ID != nil {
		spec.ID = *b.ID
	}
	return spec
}

func (s *Server) putNodes(ctx context.Context, r request) (answer, error) {
	condition, err := writeCondition(r)
	if err != nil {
		return answer{}, err
	}
	var body nodeBody
	if err := decodeBody(r, &body); err != nil {
		return answer{}, err
	}
	return s.register(ctx, body.spec(), condition)
}

func (s *Server) putNode(ctx context.Context, r request) (answer, error) {
	id, err := nodeID(r)
	if err != nil {
		return answer{}, err
	}
	condition, err := writeCondition(r)
	if err != nil {
		return answer{}, err
	}
	var body nodeBody
	if err := decodeBody(r, &body); err != nil {
		return answer{}, err
	}
	if body.ID != nil && *body.ID != id {
		return answer{}, invalidRequest("the body is about %q and the path about %q", *body.ID, id)
	}
	spec := body.spec()
	spec.ID = id
	return s.register(ctx, spec, condition)
}

func (s *Server) register(ctx context.Context, spec domain.NodeSpec, condition domain.Condition) (answer, error) {
	change, err := s.config.Nodes.Register(ctx, spec, condition)
	if err != nil {
		return answer{}, err
	}
	a := nodeAnswer(change.Node, change.Revision)
	a.etag = []string{etag(change.Node.Revision)}
	if change.Effect == domain.Added {
		a.status = http.StatusCreated
		a.location = "/nodes/" + change.Node.ID // an id needs no encoding
	}
	return a, nil
}

func (s *Server) getNodes(ctx context.Context, r request) (answer, error) {
	read, err := r.query.read()
	filter, filterErr := r.query.filter()
	if err := errors.Join(err, filterErr); err != nil {
		return answer{}, err
	}
	view, err := s.config.Nodes.View(ctx, read)
	if err != nil {
		return answer{}, err
	}
	if read.Past != nil && view.Revision() <= *read.Past {
		a := answer{status: http.StatusNotModified, etag: []string{etag(view.Revision())}, vary: acceptEncoding}
		a.setRevision(view.Revision())
		if err := checkMatchOf(r, a.etag[0], view.Revision(), nil); err != nil {
			return answer{}, err
		}
		return a, nil
	}
	get := s.lists.get
	if takesGzip(r) {
		get = s.lists.getCompressed
	}
	list, err := get(ctx, view, filter)
	if err != nil {
		return answer{}, err
	}
	if err := checkMatchOf(r, list.etag[0], list.revision, nil); err != nil {
		return answer{}, err
	}
	a := answer{
		etag: list.etag, revision: list.revisionHeader, body: list.body, length: list.length,
		coding: list.coding, vary: acceptEncoding, limiter: s.writes,
	}
	if notModified(r, list.etag[0]) {
		a.status = http.StatusNotModified
	}
	return a, nil
}

func (s *Server) getNode(ctx context.Context, r request) (answer, error) {
	id, err := nodeID(r)
	if err != nil {
		return answer{}, err
	}
	read, err := r.query.read()
	if err != nil {
		return answer{}, err
	}
	view, err := s.config.Nodes.View(ctx, read)
	if err != nil {
		return answer{}, err
	}
	node, known := view.Node(id)
	if !known {
		return answer{}, domain.NoSuchNode(id, view.Revision())
	}
	tag := etag(node.Revision)
	if err := checkMatchOf(r, tag, view.Revision(), node); err != nil {
		return answer{}, err
	}
	a := nodeAnswer(node, view.Revision())
	a.etag = []string{tag}
	if notModified(r, tag) {
		a.status = http.StatusNotModified
	}
	return a, nil
}

func (s *Server) deleteNode(ctx context.Context, r request) (answer, error) {
	id, err := nodeID(r)
	if err != nil {
		return answer{}, err
	}
	condition, err := writeCondition(r)
	if err != nil {
		return answer{}, err
	}
	if err := ignoreBody(r); err != nil {
		return answer{}, err
	}
	change, err := s.config.Nodes.Deregister(ctx, id, condition)
	if err != nil {
		return answer{}, err
	}
	return nodeAnswer(change.Node, change.Revision), nil
}

// usualNode is enough for a node without many labels.
const usualNode = 384

func nodeAnswer(n *domain.CacheNode, seen domain.Revision) answer {
	a := answer{body: appendNode(make([]byte, 0, usualNode), n)}
	a.setRevision(seen)
	return a
}

// nodeID returns the node id in the path of r, which is valid if err is nil.
func nodeID(r request) (string, error) {
	id, err := pathID(r)
	if err != nil {
		return "", err
	}
	return id, domain.CheckNodeID(id)
}
