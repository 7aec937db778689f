package conns

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
)

// PendingConns are pendingConns without a server.
type PendingConns struct{ *pendingConns }

func NewPendingConns(max int) PendingConns {
	return PendingConns{newPendingConns(max, func() {})}
}

func (n PendingConns) Greet(ctx context.Context, conn net.Conn) context.Context {
	return n.connContext(ctx, conn)
}
func (n PendingConns) MakeRoom() { n.makeRoom() }
func (n PendingConns) Close()    { n.close() }
func (n PendingConns) Hear(ctx context.Context) bool {
	return n.admit(httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
}
