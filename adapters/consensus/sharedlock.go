package consensus

// sharedLock is a read-write lock. Unlike with sync.RWMutex, waiters block on a channel, as
// they do in votePolicy: so the fake clock of simulations advances meanwhile.
type sharedLock struct {
	held  chan struct{} // one token per reader, or all tokens for a writer
	alone chan struct{} // a token for the writer that is collecting tokens
}

// maxHolders is how many readers hold the lock at once; more wait.
const maxHolders = 16

func newSharedLock() *sharedLock {
	return &sharedLock{held: make(chan struct{}, maxHolders), alone: make(chan struct{}, 1)}
}

func (l *sharedLock) RLock()   { l.held <- struct{}{} }
func (l *sharedLock) RUnlock() { <-l.held }

// Lock implements sync.Locker.
func (l *sharedLock) Lock() {
	l.alone <- struct{}{}
	for range maxHolders {
		l.held <- struct{}{}
	}
}

// Unlock implements sync.Locker.
func (l *sharedLock) Unlock() {
	for range maxHolders {
		<-l.held
	}
	<-l.alone
}
