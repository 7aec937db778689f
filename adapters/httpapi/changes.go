package httpapi

import (
	"context"
	"strconv"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// editBody is one change of a batch as a client sends it.
type editBody struct {
	Put        *nodeBody `json:"put"`
	Remove     *string   `json:"remove"`
	IfRevision *uint64   `json:"ifRevision"`
}

func (b *editBody) edit() domain.Edit {
	edit := domain.Edit{Remove: b.Remove, IfRevision: (*domain.Revision)(b.IfRevision)}
	if b.Put != nil {
		spec := b.Put.spec()
		edit.Put = &spec
	}
	return edit
}

type batchBody struct {
	Changes []editBody `json:"changes"`
}

func (s *Server) batchNodes(ctx context.Context, r request) (answer, error) {
	if err := noCondition(r); err != nil {
		return answer{}, err
	}
	var body batchBody
	if err := decodeBody(r, &body); err != nil {
		return answer{}, err
	}
	edits := make([]domain.Edit, len(body.Changes))
	for i := range body.Changes {
		edits[i] = body.Changes[i].edit()
	}
	changes, err := s.config.Nodes.Batch(ctx, edits)
	if err != nil {
		return answer{}, err
	}
	// The revision of a change is that of the registry after it.
	revision := changes[len(changes)-1].Revision
	a := answer{body: appendResults(make([]byte, 0, len(changes)*usualNode), revision, changes)}
	a.setRevision(revision)
	return a, nil
}

func appendResults(b []byte, revision domain.Revision, changes []domain.Change) []byte {
	b = append(b, `{"revision":`...)
	b = strconv.AppendUint(b, uint64(revision), 10)
	b = append(b, `,"results":[`...)
	for i := range changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"type":`...)
		b = appendString(b, string(changes[i].Effect))
		b = append(b, `,"revision":`...)
		b = strconv.AppendUint(b, uint64(changes[i].Revision), 10)
		b = append(b, `,"node":`...)
		b = appendNode(b, changes[i].Node)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

func (s *Server) renewNode(ctx context.Context, r request) (answer, error) {
	id, err := nodeID(r)
	if err != nil {
		return answer{}, err
	}
	if err := noCondition(r); err != nil {
		return answer{}, err
	}
	if err := ignoreBody(r); err != nil {
		return answer{}, err
	}
	node, revision, err := s.config.Leases.Renew(ctx, id)
	if err != nil {
		return answer{}, err
	}
	a := nodeAnswer(node, revision)
	a.etag = []string{etag(node.Revision)}
	return a, nil
}

type expiredBody struct {
	Revision domain.Revision `json:"revision"`
	Expired  []string        `json:"expired"`
}

func (s *Server) expireNodes(ctx context.Context, r request) (answer, error) {
	if err := noCondition(r); err != nil {
		return answer{}, err
	}
	if !r.query.Has(paramPool) {
		return answer{}, invalidRequest("the parameter %q is missing: which pool's nodes are to expire", paramPool)
	}
	if err := ignoreBody(r); err != nil {
		return answer{}, err
	}
	changes, revision, err := s.config.Leases.Expire(ctx, r.query.Get(paramPool))
	if err != nil {
		return answer{}, err
	}
	body := expiredBody{Revision: revision, Expired: make([]string, len(changes))}
	for i := range changes {
		body.Expired[i] = changes[i].Node.ID
	}
	a := answer{body: marshal(body)}
	a.setRevision(revision)
	return a, nil
}

// heldBody is a pool whose expiry is held back.
type heldBody struct {
	Pool    string `json:"pool"`
	Overdue int    `json:"overdue"`
	Leased  int    `json:"leased"`
}

func (s *Server) held() []heldBody {
	var body []heldBody
	for _, pool := range s.config.Leases.Held() {
		body = append(body, heldBody{Pool: pool.Pool, Overdue: pool.Overdue, Leased: pool.Leased})
	}
	return body
}
