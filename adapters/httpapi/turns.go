package httpapi

import (
	"io"
	"runtime"
	"time"
)

const (
	// turnBytes is how much of a long body is written in one turn: it takes a socket about
	// 50 µs, and the turn itself a few. With 64 KiB a lone asker waited half as long
	// again for a list of 10 000.
	turnBytes = 256 << 10

	// turnTime is far more than it takes to copy that into a socket. Whoever is not
	// done by then waits for the socket, and takes nothing from others meanwhile.
	turnTime = 5 * time.Millisecond
)

// turns bounds how many long bodies are copied into sockets at one time: to copy
// takes long, and when hundreds do that side by side, raft's heartbeats wait for
// all of them. Who waits for a slow socket holds up nobody. Each element is a turn
// that is taken. Safe for concurrent use.
type turns chan struct{}

// newTurns lets as many write as can.
func newTurns() turns { return make(turns, runtime.GOMAXPROCS(0)) }

// write writes b turn by turn, and all of a short one without.
func (t turns) write(w io.Writer, b []byte) error {
	for len(b) > turnBytes {
		if err := t.take(w, b[:turnBytes]); err != nil {
			return err
		}
		b = b[turnBytes:]
		runtime.Gosched() // who has come meanwhile, above all from the network, goes first
	}
	_, err := w.Write(b)
	return err
}

func (t turns) take(w io.Writer, b []byte) error {
	t <- struct{}{}
	end := time.AfterFunc(turnTime, func() { <-t })
	_, err := w.Write(b)
	if end.Stop() {
		<-t
	}
	return err
}
