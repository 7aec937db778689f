package harness

import (
	"os/exec"
	"runtime"
)

// nursery starts all child processes from one locked thread. An operating system
// that kills children when their parent dies does so when the thread that started
// them exits, and Go's threads come and go. On Linux the thread may also have its
// own network and mount namespaces, which its children inherit.
type nursery struct {
	births chan func()
	closed chan struct{}
	thread int // the thread's id, if it has namespaces of its own
}

func newNursery() *nursery {
	n := &nursery{births: make(chan func()), closed: make(chan struct{})}
	go func() {
		// The thread is never unlocked, so it exits with this goroutine.
		runtime.LockOSThread()
		defer close(n.closed)
		for birth := range n.births {
			birth()
		}
	}()
	return n
}

// start starts command, which the operating system kills when this process dies.
func (n *nursery) start(command *exec.Cmd) error {
	command.SysProcAttr = dieWithParent()
	return n.do(command.Start)
}

// do runs what on the thread.
func (n *nursery) do(what func() error) error {
	result := make(chan error)
	n.births <- func() { result <- what() }
	return <-result
}

func (n *nursery) close() {
	close(n.births)
	<-n.closed
}
