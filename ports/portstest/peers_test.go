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
		t.Error("somebody answers from the beginning")
	}
	want := ports.Identity{RaftID: "n1", ApplicationAddress: "a:1"}
	peers.Answer("h:1", want)
	if got, err := peers.Identify(t.Context(), "h:1"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := peers.Identify(ctx, "h:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that had ended: %v", err)
	}
	peers.Silence("h:1")
	if _, err := peers.Identify(t.Context(), "h:1"); err == nil {
		t.Error("a silenced one answers")
	}
	if asked := peers.Asked("h:1"); asked != 4 {
		t.Errorf("asked %d times", asked)
	}
}

func TestPeersLeadAsTheyAreTold(t *testing.T) {
	peers := portstest.NewPeers()
	if _, err := peers.ReadIndex(t.Context(), "h:1"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("from the beginning: %v", err)
	}
	want := ports.ReadIndex{RaftID: "n1", ClusterID: "c", Index: 7}
	peers.Lead("h:1", want)
	if got, err := peers.ReadIndex(t.Context(), "h:1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := peers.ReadIndex(t.Context(), "h:2"); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("another one: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := peers.ReadIndex(ctx, "h:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that had ended: %v", err)
	}
}
