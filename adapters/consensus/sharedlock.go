package consensus

// sharedLock is held by several at once, or by one alone. Those who wait for it block on a
// channel, as whoever waits for the ballot does: so the simulation's time goes on meanwhile.
type sharedLock struct {
	held  chan struct{} // a token for each holder, or all of them
	alone chan struct{} // a token for who takes all
}

// maxHolders is how many hold it at once; more wait.
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
