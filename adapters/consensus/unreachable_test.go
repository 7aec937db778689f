package consensus

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

var errUnreachable = errors.New("connection refused")

// awayTransport is a transport to an instance that can't be reached while away is set.
type awayTransport struct {
	incoming
	away atomic.Bool
}

func (r *awayTransport) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if r.away.Load() {
		return errUnreachable
	}
	resp.Term, resp.Success = args.Term, true
	return nil
}

func (r *awayTransport) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	return errUnreachable
}

// AppendEntriesPipeline returns a pipeline whose connection is broken.
func (r *awayTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return brokenPipeline{}, nil
}

type brokenPipeline struct{}

func (brokenPipeline) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	return nil, errUnreachable
}

func (brokenPipeline) Consumer() <-chan raft.AppendFuture { return nil }

func (brokenPipeline) Close() error { return nil }

// A message that can't be sent is given back to raft when the instance answers a heartbeat,
// or when this instance no longer sends to it.
func TestAMessageThatCannotBeSentIsHeldUntilAnAnswer(t *testing.T) {
	type event struct {
		what string
		do   func(*interceptor, *awayTransport, *atomic.Bool)
		ends bool
	}
	heartbeat := func(w *interceptor, id raft.ServerID) {
		_ = w.AppendEntries(id, "", &raft.AppendEntriesRequest{Term: 7}, &raft.AppendEntriesResponse{})
	}
	for _, event := range []event{
		{"time passes", func(*interceptor, *awayTransport, *atomic.Bool) { time.Sleep(time.Hour) }, false},
		{"a heartbeat fails", func(w *interceptor, _ *awayTransport, _ *atomic.Bool) { heartbeat(w, "b") }, false},
		{"another instance answers", func(w *interceptor, r *awayTransport, _ *atomic.Bool) { r.away.Store(false); heartbeat(w, "c") }, false},
		{"the instance answers", func(w *interceptor, r *awayTransport, _ *atomic.Bool) { r.away.Store(false); heartbeat(w, "b") }, true},
		{"the instance is removed, or another one leads", func(_ *interceptor, _ *awayTransport, sends *atomic.Bool) {
			sends.Store(false)
			time.Sleep(returnCheckInterval)
		}, true},
		{"the transport is closed", func(w *interceptor, _ *awayTransport, _ *atomic.Bool) { _ = w.Close() }, true},
	} {
		for name, send := range map[string]func(*interceptor) error{
			"entries": func(w *interceptor) error {
				return w.AppendEntries("b", "", upTo(7, 10), &raft.AppendEntriesResponse{})
			},
			"a request without entries": func(w *interceptor) error {
				return w.AppendEntries("b", "", &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 10, PrevLogTerm: 7}, &raft.AppendEntriesResponse{})
			},
			"entries in a pipeline": func(w *interceptor) error {
				p, err := w.AppendEntriesPipeline("b", "")
				if err != nil {
					return err
				}
				_, err = p.AppendEntries(upTo(7, 10), &raft.AppendEntriesResponse{})
				return errors.Join(err, p.Close())
			},
			"a snapshot": func(w *interceptor) error {
				return w.InstallSnapshot("b", "", &raft.InstallSnapshotRequest{Term: 7}, &raft.InstallSnapshotResponse{}, nil)
			},
		} {
			t.Run(name+": "+event.what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := &awayTransport{incoming: incoming{rpcs: make(chan raft.RPC)}}
					r.away.Store(true)
					var sends atomic.Bool
					sends.Store(true)
					w := newInterceptor(r, interceptorConfig{
						evidence:     newEvidence(),
						term:         func() uint64 { return 7 },
						replicatesTo: func(id raft.ServerID, term uint64) bool { return id == "b" && term == 7 && sends.Load() },
					})
					defer func() { _ = w.Close() }()
					sent := make(chan error, 1)
					go func() { sent <- send(w) }()
					synctest.Wait()
					event.do(w, r, &sends)
					synctest.Wait()
					select {
					case err := <-sent:
						if !event.ends || !errors.Is(err, errUnreachable) {
							t.Errorf("send = %v, want %v once the message is given back: %v", err, errUnreachable, event.ends)
						}
					default:
						if event.ends {
							t.Error("the message is still held back")
						}
					}
				})
			})
		}
	}
}

// The result of a heartbeat must be known at once.
func TestAHeartbeatDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &awayTransport{incoming: incoming{rpcs: make(chan raft.RPC)}}
		r.away.Store(true)
		w := newInterceptor(r, interceptorConfig{
			evidence:     newEvidence(),
			term:         func() uint64 { return 7 },
			replicatesTo: func(raft.ServerID, uint64) bool { return true },
		})
		defer func() { _ = w.Close() }()
		err := w.AppendEntries("b", "", &raft.AppendEntriesRequest{Term: 7}, &raft.AppendEntriesResponse{})
		if !errors.Is(err, errUnreachable) {
			t.Errorf("error = %v, want %v", err, errUnreachable)
		}
	})
}

// failureCounter counts messages that could not be sent.
type failureCounter struct {
	transport
	heartbeats, others *atomic.Int64
}

func (c failureCounter) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := c.transport.AppendEntries(id, to, args, resp)
	switch {
	case err == nil:
	case isHeartbeat(args):
		c.heartbeats.Add(1)
	default:
		c.others.Add(1)
	}
	return err
}

// Raft waits longer after each failure, so it must not have counted many when an instance
// comes back.
func TestAnInstanceThatComesBackIsContactedSoon(t *testing.T) {
	var heartbeats, others atomic.Int64
	away := instanceConfig{}
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = longTimeouts
		config.hooks.transport = func(inner transport) transport { return failureCounter{inner, &heartbeats, &others} }
		away = *config
	})
	leader := cluster[0]
	away.address = cluster[2].raftAddress()
	cluster[2].stop(t)
	heartbeats.Store(0)
	others.Store(0)
	register(t, leader, "meanwhile")
	until(t, "heartbeats fail", func() bool { return heartbeats.Load() >= 10 })
	if count := others.Load(); count > 2 {
		t.Errorf("failures that raft has counted = %d, want at most 2", count)
	}
	change := register(t, leader, "at-last")
	start(t, away).waitForRevision(t, change.Revision)
}
