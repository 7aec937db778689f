package logstore

import "sync"

// Calls are the calls of a store's methods: Close waits for those in flight, and refuses
// later ones. The zero value is ready to use.
type Calls struct {
	mu    sync.RWMutex // held for reading during each call
	ended bool
}

// During makes a call and returns its error, or returns ErrClosed after End.
func (c *Calls) During(call func() error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.ended {
		return ErrClosed
	}
	return call()
}

// End waits for the calls in flight, and then makes the last one. A second End does nothing
// and returns nil.
func (c *Calls) End(last func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	return last()
}
