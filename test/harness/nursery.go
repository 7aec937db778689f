package harness

import (
	"os/exec"
	"runtime"
)

// nursery starts all child processes from one thread. Where the operating system
// kills children when their parent dies, it means the thread that started them,
// and Go's threads come and go. On Linux a thread may also have a network
// namespace of its own, and disks, which its children are born into.
type nursery struct {
	births chan func()
	closed chan struct{}
	thread int // its id, where it has namespaces of its own
}

func newNursery() *nursery {
	n := &nursery{births: make(chan func()), closed: make(chan struct{})}
	go func() {
		// It is never unlocked: with this goroutine ends its thread.
		runtime.LockOSThread()
		defer close(n.closed)
		for birth := range n.births {
			birth()
		}
	}()
	return n
}

// start starts command, which dies with this process.
func (n *nursery) start(command *exec.Cmd) error {
	command.SysProcAttr = dieWithParent()
	return n.do(command.Start)
}

// do calls what on the thread.
func (n *nursery) do(what func() error) error {
	result := make(chan error)
	n.births <- func() { result <- what() }
	return <-result
}

func (n *nursery) close() {
	close(n.births)
	<-n.closed
}
