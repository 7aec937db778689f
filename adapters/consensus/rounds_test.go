package consensus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// oracle is a question whose answers a test gives. Each answer is the question's
// number.
type oracle struct {
	put    atomic.Uint64
	answer chan error // one for each question
}

func newOracle() *oracle { return &oracle{answer: make(chan error)} }

func (o *oracle) ask() (uint64, error) {
	number := o.put.Add(1)
	return number, <-o.answer
}

type passed struct {
	index uint64
	err   error
}

// asker passes in the background.
func asker(ctx context.Context, r *rounds, put func() (uint64, error)) <-chan passed {
	answered := make(chan passed, 1)
	go func() {
		index, err := r.do(ctx, put)
		answered <- passed{index, err}
	}()
	return answered
}

func TestAnAnswerIsOnlyForThoseWhoAskedBeforeTheQuestionWasPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		o := newOracle()
		first := asker(t.Context(), &r, o.ask)
		synctest.Wait()
		late := asker(t.Context(), &r, o.ask)
		synctest.Wait()
		o.answer <- nil
		if got := <-first; got.err != nil || got.index != 1 {
			t.Errorf("the first: %+v", got)
		}
		synctest.Wait()
		select {
		case got := <-late:
			t.Fatalf("a caller that came after the round had begun got its answer: %+v", got)
		default:
		}
		o.answer <- nil
		if got := <-late; got.err != nil || got.index != 2 {
			t.Errorf("the late one: %+v", got)
		}
		r.end()
	})
}

func TestALoneAskerIsNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		for range 3 {
			began := time.Now()
			if _, err := r.do(t.Context(), func() (uint64, error) { return 1, nil }); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("the caller waited for %v, want no time", took)
			}
		}
		r.end()
	})
}

func TestAnyNumberOfAskersCostsTwoQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const askers = 200
		var r rounds
		o := newOracle()
		answers := []<-chan passed{asker(t.Context(), &r, o.ask)}
		synctest.Wait()
		for range askers {
			answers = append(answers, asker(t.Context(), &r, o.ask))
		}
		synctest.Wait()
		for range 2 {
			o.answer <- nil
		}
		for _, answered := range answers {
			if got := <-answered; got.err != nil {
				t.Error(got.err)
			}
		}
		if n := o.put.Load(); n != 2 || r.begun.Load() != 2 || r.shared.Load() != 1+askers {
			t.Errorf("rounds = %d, counted as %d begun for %d callers, want 2 and %d", n, r.begun.Load(), r.shared.Load(), 1+askers)
		}
		r.end()
	})
}

func TestAQuestionThatFailsFailsThoseWhoSharedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		o := newOracle()
		first := asker(t.Context(), &r, o.ask)
		synctest.Wait()
		second := asker(t.Context(), &r, o.ask)
		synctest.Wait()
		o.answer <- errCut
		o.answer <- nil
		if got := <-first; !errors.Is(got.err, errCut) {
			t.Errorf("the first: %+v", got)
		}
		if got := <-second; got.err != nil {
			t.Errorf("another question's error reached the second: %+v", got)
		}
		r.end()
	})
}

func TestWithAnEndedContextNothingIsAsked(t *testing.T) {
	var r rounds
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		_, err := r.do(ctx, func() (uint64, error) {
			t.Error("a round was begun")
			return 1, nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want the context's", err)
		}
	}
	r.end()
}

func TestEndWaitsForRunningRoundsAndBeginsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		o := newOracle()
		first := asker(t.Context(), &r, o.ask)
		synctest.Wait()
		waiting := asker(t.Context(), &r, o.ask)
		synctest.Wait()
		ended := make(chan struct{})
		go func() {
			r.end()
			close(ended)
		}()
		synctest.Wait()
		if got := <-asker(t.Context(), &r, o.ask); !errors.Is(got.err, ports.ErrClosed) {
			t.Errorf("answer after the end = %+v, want %v", got, ports.ErrClosed)
		}
		o.answer <- nil
		synctest.Wait()
		select {
		case <-ended:
			t.Error("End did not wait for earlier callers")
		default:
		}
		o.answer <- nil
		<-ended
		for _, answered := range []<-chan passed{first, waiting} {
			if got := <-answered; got.err != nil {
				t.Errorf("answer of a caller before the end = %+v, want success", got)
			}
		}
	})
}

// Those who had passed every other check when the instance was closed come here
// at any time.
func TestRoundsEndWhileManyCome(t *testing.T) {
	for range 50 {
		var r rounds
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for {
					if _, err := r.do(t.Context(), func() (uint64, error) { return 1, nil }); err != nil {
						return
					}
				}
			})
		}
		until(t, "they are asking", func() bool { return r.begun.Load() > 3 })
		r.end()
		begun := r.begun.Load()
		asking.Wait()
		if now := r.begun.Load(); now != begun {
			t.Fatalf("%d rounds began after the end", now-begun)
		}
	}
}
