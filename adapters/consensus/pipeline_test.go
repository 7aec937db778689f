package consensus

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// refusing is raft's pipeline to a peer that refuses the first entries: what comes
// next waits for answers to be taken.
type refusing struct {
	answers chan raft.AppendFuture
	closed  chan struct{}
}

func (r *refusing) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	<-r.closed
	return nil, raft.ErrPipelineShutdown
}

func (r *refusing) Consumer() <-chan raft.AppendFuture { return r.answers }

func (r *refusing) Close() error {
	close(r.closed)
	return nil
}

type answered struct {
	raft.AppendFuture
	response raft.AppendEntriesResponse
}

func (a *answered) Request() *raft.AppendEntriesRequest { return &raft.AppendEntriesRequest{} }

func (a *answered) Response() *raft.AppendEntriesResponse { return &a.response }

// severed is raft's pipeline on a connection that is broken.
type severed struct{ *refusing }

func (severed) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	return nil, raft.ErrTransportShutdown
}

// What was sent before it is not waited for as long as for the instance to return.
func TestAPipelineThatIsBrokenIsClosedAtOnce(t *testing.T) {
	inner := &refusing{answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	awaited := false
	p := newPipeline(severed{inner}, nil, func(term uint64) {
		awaited = term == 7
		select {
		case <-inner.closed:
		default:
			t.Error("it is open while the instance is waited for")
		}
	})
	if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 7}, nil); err != raft.ErrTransportShutdown || !awaited {
		t.Errorf("%v, and its return is awaited: %t", err, awaited)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPipelineEndsWithTheFirstRefusal(t *testing.T) {
	for name, test := range map[string]struct{ success, ends bool }{
		"refused":  {success: false, ends: true},
		"accepted": {success: true, ends: false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := &refusing{answers: make(chan raft.AppendFuture, 1), closed: make(chan struct{})}
				p := newPipeline(inner, func(*raft.AppendEntriesRequest, <-chan struct{}) bool { return true }, func(uint64) {})
				sent := make(chan error, 1)
				inner.answers <- &answered{response: raft.AppendEntriesResponse{Success: test.success}}
				if got := (<-p.Consumer()).Response().Success; got != test.success {
					t.Errorf("raft is told %v", got)
				}
				// Raft takes no more answers now, and sends once more.
				go func() {
					_, err := p.AppendEntries(&raft.AppendEntriesRequest{}, nil)
					sent <- err
				}()
				synctest.Wait()
				select {
				case err := <-sent:
					if !test.ends || err != raft.ErrPipelineShutdown {
						t.Errorf("it ended with %v", err)
					}
				default:
					if test.ends {
						t.Error("raft waits for ever")
					}
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
