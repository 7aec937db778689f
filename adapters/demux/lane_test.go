package demux

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
)

// The tests in this file cover states between two steps of one goroutine, which a client
// cannot hit reliably.

func TestAConnectionThatWasClosedTakesNoPlace(t *testing.T) {
	conn := &limitedConn{TCPConn: &net.TCPConn{}, limiter: newLimiter(1)}
	other, _ := conn.limiter.add(&net.TCPConn{}, netip.Prefix{})
	_ = conn.Close() // fails, since there is no socket
	if victim, ok := conn.acquire(); ok || victim != nil {
		t.Errorf("acquire of a closed connection evicted %v, want it refused", victim)
	}
	if !conn.limiter.release(other) || conn.limiter.size() != 0 {
		t.Error("release of the other connection failed, or the closed one holds a place")
	}
}

func TestEachConnectionWakesOneAccept(t *testing.T) {
	for range 100 { // so that sometimes both arrive before either Accept has woken up
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
					t.Errorf("deliver = %v, want %v", got, none)
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
			t.Errorf("deliver to a closed lane = %v, want %v", got, first)
		}
	}
}
