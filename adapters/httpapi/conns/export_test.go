package conns

// MakeRoom does what the listener does once it has accepted a connection.
func (t *Tracker) MakeRoom() { t.pending.makeRoom() }

// Remembered returns how many open connections the tracker holds.
func (t *Tracker) Remembered() int {
	t.connections.mu.Lock()
	defer t.connections.mu.Unlock()
	return len(t.connections.tracked)
}
