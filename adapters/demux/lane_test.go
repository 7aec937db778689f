package demux

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
)

// These are moments between two steps of one goroutine, too short for a client
// to hit them.

func TestAConnectionThatWasClosedTakesNoPlace(t *testing.T) {
	conn := &limitedConn{TCPConn: &net.TCPConn{}, limiter: newLimiter(1)}
	other, _ := conn.limiter.add(&net.TCPConn{}, netip.Prefix{})
	_ = conn.Close() // says that there is no socket
	if victim, ok := conn.acquire(); ok || victim != nil {
		t.Errorf("it took the place of %v", victim)
	}
	if !conn.limiter.release(other) || conn.limiter.size() != 0 {
		t.Error("the other one lost its place, or the closed one holds one")
	}
}

func TestEachConnectionWakesOneAccept(t *testing.T) {
	for range 100 { // so that now and then both arrive before anybody has woken up
		synctest.Test(t, func(t *testing.T) {
			lane := newLane(nil, 'a', LaneConfig{})
			var accepting sync.WaitGroup
			for range 2 {
				accepting.Go(func() {
					if _, err := lane.Accept(); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			for range 2 {
				if got := lane.deliver(pendingConn{}); got != none {
					t.Errorf("got %v", got)
				}
			}
			accepting.Wait()
		})
	}
}

func TestDeliverToAClosedLaneGivesTheReason(t *testing.T) {
	for _, first := range []Reason{LaneClosed, Shutdown} {
		lane := newLane(nil, 'a', LaneConfig{})
		lane.shut(first)
		lane.shut(Shutdown)
		if got := lane.deliver(pendingConn{}); got != first {
			t.Errorf("got %v, want %v", got, first)
		}
	}
}
