package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline is raft's pipeline of entries to one peer, that ends by itself with the
// first answer after which raft has no use for it.
//
// Raft 1.7.3 stops taking answers then, and only after that stops sending. What it
// sends in between waits until answers are taken: that peer gets no more entries as
// long as this instance leads, and raft never shuts down.
//
// What the peer has acknowledged raft learns when this instance has it, too: see ahead.
//
// What can't be sent it learns when awaitReturn returns. When it logs that, it reads the peer's
// address without the lock under which it changes it, and an instance that moves is both: the
// change of its address is the first thing that does not reach the old one.
type pipeline struct {
	raft.AppendPipeline
	stored      func(request *raft.AppendEntriesRequest, done <-chan struct{}) bool
	awaitReturn func(term uint64)
	answers     chan raft.AppendFuture
	closed      chan struct{}
	close       func() error
	relaying    sync.WaitGroup
}

func newPipeline(inner raft.AppendPipeline, stored func(*raft.AppendEntriesRequest, <-chan struct{}) bool, awaitReturn func(term uint64)) *pipeline {
	p := &pipeline{AppendPipeline: inner, stored: stored, awaitReturn: awaitReturn, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	p.close = sync.OnceValue(func() error {
		close(p.closed)
		return inner.Close()
	})
	p.relaying.Go(p.relay)
	return p
}

func (p *pipeline) relay() {
	for {
		select {
		case answer := <-p.AppendPipeline.Consumer():
			// Raft may use it for something else once it has it.
			last := !answer.Response().Success
			if !last && !p.stored(answer.Request(), p.closed) {
				_ = p.close() // who sends waits for answers to be taken
				return
			}
			select {
			case p.answers <- answer:
			case <-p.closed:
				return
			}
			if last {
				_ = p.close() // raft closes it too, and does not ask for the error
				return
			}
		case <-p.closed:
			return
		}
	}
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	future, err := p.AppendPipeline.AppendEntries(args, resp)
	if err != nil {
		_ = p.close()
		p.awaitReturn(args.Term)
	}
	return future, err
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	err := p.close()
	p.relaying.Wait()
	return err
}
