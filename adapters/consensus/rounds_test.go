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

// oracle is a question that a test answers. Each answer is the number of the question.
type oracle struct {
	put    atomic.Uint64
	answer chan error // one for each question
}

func newOracle() *oracle { return &oracle{answer: make(chan error)} }

func (o *oracle) ask() (uint64, error) {
	number := o.put.Add(1)
	return number, <-o.answer
}

type roundResult struct {
	index uint64
	err   error
}

// doAsync calls r.do in the background, and returns the channel with the result.
func doAsync(ctx context.Context, r *rounds, put func() (uint64, error)) <-chan roundResult {
	answered := make(chan roundResult, 1)
	go func() {
		index, err := r.do(ctx, put)
		answered <- roundResult{index, err}
	}()
	return answered
}

func TestARoundIsOnlyForCallersThatCameBeforeItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		o := newOracle()
		first := doAsync(t.Context(), &r, o.ask)
		synctest.Wait()
		late := doAsync(t.Context(), &r, o.ask)
		synctest.Wait()
		o.answer <- nil
		if got := <-first; got.err != nil || got.index != 1 {
			t.Errorf("answer of the first caller = %+v, want that of its own round", got)
		}
		synctest.Wait()
		select {
		case got := <-late:
			t.Fatalf("a caller that came after the round had begun got its answer: %+v", got)
		default:
		}
		o.answer <- nil
		if got := <-late; got.err != nil || got.index != 2 {
			t.Errorf("answer of the late caller = %+v, want index 2", got)
		}
		r.end()
	})
}

func TestALoneCallerIsNotDelayed(t *testing.T) {
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

func TestAnyNumberOfCallersTakesTwoRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const askers = 200
		var r rounds
		o := newOracle()
		answers := []<-chan roundResult{doAsync(t.Context(), &r, o.ask)}
		synctest.Wait()
		for range askers {
			answers = append(answers, doAsync(t.Context(), &r, o.ask))
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

func TestARoundThatFailsFailsOnlyItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		o := newOracle()
		first := doAsync(t.Context(), &r, o.ask)
		synctest.Wait()
		second := doAsync(t.Context(), &r, o.ask)
		synctest.Wait()
		o.answer <- errCut
		o.answer <- nil
		if got := <-first; !errors.Is(got.err, errCut) {
			t.Errorf("answer of the first caller = %+v, want that of its own round", got)
		}
		if got := <-second; got.err != nil {
			t.Errorf("answer of the second caller = %+v, want no error of the first round", got)
		}
		r.end()
	})
}

func TestACallerWithAnEndedContextBeginsNoRound(t *testing.T) {
	var r rounds
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		_, err := r.do(ctx, func() (uint64, error) {
			t.Error("a round was begun")
			return 1, nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("do = %v, want the context's error", err)
		}
	}
	r.end()
}

func TestEndWaitsForRunningRoundsAndBeginsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		o := newOracle()
		first := doAsync(t.Context(), &r, o.ask)
		synctest.Wait()
		waiting := doAsync(t.Context(), &r, o.ask)
		synctest.Wait()
		ended := make(chan struct{})
		go func() {
			r.end()
			close(ended)
		}()
		synctest.Wait()
		if got := <-doAsync(t.Context(), &r, o.ask); !errors.Is(got.err, ports.ErrClosed) {
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
		for _, answered := range []<-chan roundResult{first, waiting} {
			if got := <-answered; got.err != nil {
				t.Errorf("answer of a caller before the end = %+v, want success", got)
			}
		}
	})
}

// Callers that had passed every other check before the instance was closed may come here at
// any time.
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
		until(t, "the callers are asking", func() bool { return r.begun.Load() > 3 })
		r.end()
		begun := r.begun.Load()
		asking.Wait()
		if now := r.begun.Load(); now != begun {
			t.Fatalf("rounds begun after the end = %d, want none", now-begun)
		}
	}
}
