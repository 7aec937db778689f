package portstest_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func TestPeersAnswerAsTheyAreTold(t *testing.T) {
	peers := portstest.NewPeers()
	if _, err := peers.Identify(t.Context(), "h:1"); err == nil {
		t.Error("Identify of an unknown address = nil, want an error")
	}
	want := ports.Identity{RaftID: "n1", ApplicationAddress: "a:1"}
	peers.Answer("h:1", want)
	if got, err := peers.Identify(t.Context(), "h:1"); err != nil || got != want {
		t.Errorf("Identify = %+v, %v, want %+v", got, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := peers.Identify(ctx, "h:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("Identify with an ended context = %v, want %v", err, context.Canceled)
	}
	peers.Silence("h:1")
	if _, err := peers.Identify(t.Context(), "h:1"); err == nil {
		t.Error("Identify of a silenced address = nil, want an error")
	}
	if asked := peers.Asked("h:1"); asked != 4 {
		t.Errorf("Asked = %d, want 4", asked)
	}
}

func TestPeersLeadAsTheyAreTold(t *testing.T) {
	peers := portstest.NewPeers()
	if _, err := peers.ReadIndex(t.Context(), "h:1"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("ReadIndex without a leader = %v, want %v", err, ports.ErrNotLeader)
	}
	want := ports.ReadIndex{RaftID: "n1", ClusterID: "c", Index: 7}
	peers.Lead("h:1", want)
	if got, err := peers.ReadIndex(t.Context(), "h:1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ReadIndex = %+v, %v, want %+v", got, err, want)
	}
	if _, err := peers.ReadIndex(t.Context(), "h:2"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("ReadIndex of another address = %v, want %v", err, ports.ErrNotLeader)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := peers.ReadIndex(ctx, "h:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadIndex with an ended context = %v, want %v", err, context.Canceled)
	}
}
