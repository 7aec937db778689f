package harness

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports come from blocks below the range of ephemeral ports, so that no outgoing
// connection takes an instance's port while the instance is down. A process owns a
// block for as long as it listens on the first port of the block.
const (
	firstBlock = 10000
	lastBlock  = 19800
	blockSize  = 200
)

// ports hands out the ports of one block. The zero value is ready to use.
type ports struct {
	mu    sync.Mutex
	lock  net.Listener // on the first port of the block; nil before there is one
	block int
	next  int
	taken map[int]bool
}

// Address returns an address of host and a port that is reserved for t until t ends.
func Address(t testing.TB, host string) string {
	t.Helper()
	port, err := shared.ports.take(host)
	if err != nil {
		t.Fatalf("harness: %v", err)
	}
	t.Cleanup(func() { shared.ports.give(port) })
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func (p *ports) take(host string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lock == nil {
		if err := p.own(); err != nil {
			return 0, err
		}
	}
	for range blockSize {
		port := p.block + 1 + p.next%(blockSize-1)
		p.next++
		if !p.taken[port] && isFree(host, port) {
			p.taken[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port from %d on is free for host %s", p.block, host)
}

func (p *ports) give(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
}

func (p *ports) own() error {
	for block := firstBlock; block <= lastBlock; block += blockSize {
		lock, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(block)))
		if err == nil {
			p.lock, p.block, p.taken = lock, block, map[int]bool{}
			return nil
		}
	}
	return fmt.Errorf("no block of ports from %d to %d is free", firstBlock, lastBlock+blockSize-1)
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lock != nil {
		_ = p.lock.Close()
		p.lock = nil
	}
}

func isFree(host string, port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
