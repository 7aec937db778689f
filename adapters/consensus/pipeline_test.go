package consensus

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// refusingPipeline is raft's pipeline to a peer that refuses the first entries: the next
// call waits until answers are taken.
type refusingPipeline struct {
	answers chan raft.AppendFuture
	closed  chan struct{}
}

func (r *refusingPipeline) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	<-r.closed
	return nil, raft.ErrPipelineShutdown
}

func (r *refusingPipeline) Consumer() <-chan raft.AppendFuture { return r.answers }

func (r *refusingPipeline) Close() error {
	close(r.closed)
	return nil
}

type answered struct {
	raft.AppendFuture
	response raft.AppendEntriesResponse
}

func (a *answered) Request() *raft.AppendEntriesRequest { return &raft.AppendEntriesRequest{} }

func (a *answered) Response() *raft.AppendEntriesResponse { return &a.response }

// severedPipeline is raft's pipeline on a broken connection.
type severedPipeline struct{ *refusingPipeline }

func (severedPipeline) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	return nil, raft.ErrTransportShutdown
}

// Otherwise the answers to earlier requests would be waited for until the instance returns.
func TestAPipelineThatIsBrokenIsClosedAtOnce(t *testing.T) {
	inner := &refusingPipeline{answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	awaited := false
	p := newPipeline(severedPipeline{inner}, nil, func(term uint64) {
		awaited = term == 7
		select {
		case <-inner.closed:
		default:
			t.Error("the pipeline is still open while the instance is waited for")
		}
	})
	if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 7}, nil); err != raft.ErrTransportShutdown || !awaited {
		t.Errorf("AppendEntries = %v, wait for the instance = %t, want ErrTransportShutdown and true", err, awaited)
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
				inner := &refusingPipeline{answers: make(chan raft.AppendFuture, 1), closed: make(chan struct{})}
				p := newPipeline(inner, func(*raft.AppendEntriesRequest, <-chan struct{}) bool { return true }, func(uint64) {})
				sent := make(chan error, 1)
				inner.answers <- &answered{response: raft.AppendEntriesResponse{Success: test.success}}
				if got := (<-p.Consumer()).Response().Success; got != test.success {
					t.Errorf("answer given to raft = success %v, want it as the peer gave it", got)
				}
				// Raft takes no more answers from here on, and sends one more request.
				go func() {
					_, err := p.AppendEntries(&raft.AppendEntriesRequest{}, nil)
					sent <- err
				}()
				synctest.Wait()
				select {
				case err := <-sent:
					if !test.ends || err != raft.ErrPipelineShutdown {
						t.Errorf("AppendEntries = %v, want ErrPipelineShutdown after a refusal, and otherwise no end", err)
					}
				default:
					if test.ends {
						t.Error("AppendEntries after a refusal still waits")
					}
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
