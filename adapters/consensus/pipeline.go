package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline is raft's pipeline of entries to one peer. It closes itself at the first
// unsuccessful answer.
//
// At such an answer raft 1.7.3 stops taking answers, and only then stops sending. A send
// in between blocks until answers are taken, that is for ever: the peer would get no
// more entries while this instance leads, and raft would never shut down.
//
// Raft learns that the peer has stored entries only once they are stored here, too: see
// disk.Store.
//
// Raft learns of a failure to send only once awaitReturn has returned. It logs the failure
// with the peer's address, which it reads without the lock under which it changes it.
// When a peer moves, the two coincide: the change of its address is the first entry
// that fails to reach the old one.
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
			// Raft may reuse the response once it has the answer.
			last := !answer.Response().Success
			if !last && !p.stored(answer.Request(), p.closed) {
				_ = p.close() // a sender is blocked until answers are taken
				return
			}
			select {
			case p.answers <- answer:
			case <-p.closed:
				return
			}
			if last {
				_ = p.close() // raft closes it, too, and ignores the error
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
