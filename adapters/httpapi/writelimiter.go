package httpapi

import (
	"io"
	"runtime"
	"time"
)

const (
	// limitedWrite is how much of a long body is written with one slot: to copy it into a
	// socket takes about 50 µs, and to take a slot a few. With 64 KiB a single client
	// waited half as long again for a list of 10 000 nodes.
	limitedWrite = 256 << 10

	// maxHold is how long a write keeps its slot: far longer than it takes to copy
	// limitedWrite bytes. A write that takes longer waits for its client, and needs no
	// processor.
	maxHold = 5 * time.Millisecond
)

// writeLimiter limits how many long bodies are copied into sockets at one time. Copying
// takes long, and when hundreds of bodies are copied side by side, raft's heartbeats wait
// for all of them. A slow socket delays nobody else. Each element of the channel is a slot
// in use. Safe for concurrent use.
type writeLimiter chan struct{}

// newWriteLimiter allows one write for each processor.
func newWriteLimiter() writeLimiter { return make(writeLimiter, runtime.GOMAXPROCS(0)) }

// write writes b to w in parts that have a slot each. The last part, or a short b, is
// written without one.
func (l writeLimiter) write(w io.Writer, b []byte) error {
	for len(b) > limitedWrite {
		if err := l.writePart(w, b[:limitedWrite]); err != nil {
			return err
		}
		b = b[limitedWrite:]
		runtime.Gosched() // others go first, above all what has come from the network
	}
	_, err := w.Write(b)
	return err
}

func (l writeLimiter) writePart(w io.Writer, b []byte) error {
	l <- struct{}{}
	release := time.AfterFunc(maxHold, func() { <-l })
	_, err := w.Write(b)
	if release.Stop() {
		<-l
	}
	return err
}
