package httpapi

import (
	"context"
	"net/http"
	"runtime/debug"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// The calls about this instance itself. They ask no other instance, and are never
// redirected.

var alive = []byte(`{"live":true}`)

func (s *Server) livez(context.Context, request) (answer, error) {
	return answer{body: alive}, nil
}

type readyBody struct {
	Ready     bool            `json:"ready"`
	Reasons   []string        `json:"reasons"`
	Member    bool            `json:"member"`
	Leading   bool            `json:"leading"`
	LeaderID  string          `json:"leaderNodeID"`
	Term      uint64          `json:"term"`
	ClusterID string          `json:"clusterID"`
	Revision  domain.Revision `json:"revision"`
	// ExpiryHeld are the pools whose expiry this leader holds back. It is ready
	// all the same.
	ExpiryHeld []heldBody `json:"expiryHeld,omitzero"`
}

func (s *Server) readyz(context.Context, request) (answer, error) {
	state, _ := s.config.Local.State()
	reasons := s.unready(state)
	a := answer{body: marshal(readyBody{
		Ready:     len(reasons) == 0,
		Reasons:   reasons,
		Member:    state.Member,
		Leading:   state.Leading,
		LeaderID:  state.LeaderID,
		Term:      state.Term,
		ClusterID: state.ClusterID,
		Revision:  state.View.Revision(),

		ExpiryHeld: s.held(),
	})}
	a.setRevision(state.View.Revision())
	if len(reasons) > 0 {
		a.status = http.StatusServiceUnavailable
	}
	return a, nil
}

func (s *Server) unready(state ports.LocalState) []string {
	if s.config.Joining == nil {
		return state.Unready("")
	}
	return state.Unready(oneLine(s.config.Joining.JoinStatus()))
}

type versionBody struct {
	Version   string `json:"version"`
	GoVersion string `json:"goVersion"`
	Commit    string `json:"commit,omitzero"`
	// Modified: the build had changes that are not in Commit.
	Modified bool `json:"modified,omitzero"`
}

func (s *Server) version(context.Context, request) (answer, error) {
	body := versionBody{Version: s.config.Version}
	if build, ok := debug.ReadBuildInfo(); ok {
		body.GoVersion = build.GoVersion
		for _, setting := range build.Settings {
			switch setting.Key {
			case "vcs.revision":
				body.Commit = setting.Value
			case "vcs.modified":
				body.Modified = setting.Value == "true"
			}
		}
	}
	return answer{body: marshal(body)}, nil
}
