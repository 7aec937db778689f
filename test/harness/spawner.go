package harness

import (
	"os/exec"
	"runtime"
)

// spawner starts all child processes from one locked thread. An operating system
// that kills children when their parent dies does so when the thread that started
// them exits, and Go's threads come and go. On Linux the thread may also have its
// own network and mount namespaces, which its children inherit.
type spawner struct {
	calls  chan func()
	closed chan struct{}
	thread int // the thread's id, if it has namespaces of its own
}

func newSpawner() *spawner {
	s := &spawner{calls: make(chan func()), closed: make(chan struct{})}
	go func() {
		// The thread is never unlocked, so it exits with this goroutine.
		runtime.LockOSThread()
		defer close(s.closed)
		for call := range s.calls {
			call()
		}
	}()
	return s
}

// start starts command, which the operating system kills when this process dies.
func (s *spawner) start(command *exec.Cmd) error {
	command.SysProcAttr = dieWithParent()
	return s.do(command.Start)
}

// do runs what on the thread.
func (s *spawner) do(what func() error) error {
	result := make(chan error)
	s.calls <- func() { result <- what() }
	return <-result
}

func (s *spawner) close() {
	close(s.calls)
	<-s.closed
}
