package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// StopPatience is how long a process may take to stop: more than its own
// --shutdown_timeout of 10 s.
const StopPatience = 15 * time.Second

// Instance is one place in a cluster: an id, a directory and addresses, and the
// process that runs there, if one does.
type Instance struct {
	ID string
	// Host is where in a Network it runs.
	Host int
	// Directory holds its data.
	Directory string
	// RaftBind is where its raft port is bound, and RaftAddress where others
	// reach it: through Proxy, if there is one.
	RaftBind, RaftAddress string
	// Application is the address of its application API.
	Application string
	// Flags are what it is started with beside what follows from the above.
	Flags []string
	// Proxy stands before the raft port of an instance of a cluster with
	// Options.Proxied; else it is nil.
	Proxy *Proxy
	// Client talks to its application API and follows redirects.
	*Client

	t       testing.TB
	program string
	environ []string
	files   int
	logPath string
	nursery *nursery
	process *process
}

// process is one life of an instance.
type process struct {
	command *exec.Cmd
	exited  chan struct{} // closed when it has ended
	ended   bool          // somebody asked for its end
	logFrom int64         // where its part of the log begins
}

// Launch starts the process and does not wait for anything.
func (i *Instance) Launch() {
	i.t.Helper()
	if i.Running() {
		i.t.Fatalf("%s runs already", i.ID)
	}
	i.checkEnd()
	log, err := os.OpenFile(i.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		i.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	info, err := log.Stat()
	if err != nil {
		i.t.Fatal(err)
	}
	command := exec.Command(i.program, i.Args()...)
	if i.files > 0 {
		limited := []string{"-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(i.files)}
		command = exec.Command("sh", append(limited, command.Args...)...)
	}
	command.Env = i.environ
	command.Stdout, command.Stderr = log, log
	if err := i.nursery.start(command); err != nil {
		i.t.Fatalf("start %s: %v", i.ID, err)
	}
	p := &process{command: command, exited: make(chan struct{}), logFrom: info.Size()}
	i.process = p
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // how it ended is read from its state
	}()
}

// Args is the whole command line.
func (i *Instance) Args() []string {
	return append([]string{
		"--raft_id=" + i.ID,
		"--raft_dir=" + i.Directory,
		"--raft_bind_address=" + i.RaftBind,
		"--raft_advertised_address=" + i.RaftAddress,
		"--application_bind_address=" + i.Application,
	}, i.Flags...)
}

// Start launches the process and waits until its application API answers.
func (i *Instance) Start() {
	i.t.Helper()
	i.Launch()
	i.AwaitServing()
}

// AwaitServing waits until the application API answers.
func (i *Instance) AwaitServing() {
	i.t.Helper()
	Eventually(i.t, i.ID+" serves", func() error {
		if !i.Running() {
			i.t.Fatalf("%s ended instead of serving: %v\n%s", i.ID, i.process.command.ProcessState, i.LastLog())
		}
		_, err := i.Do(i.t.Context(), "GET", "/livez", nil)
		return err
	})
}

// AwaitReady waits until /readyz says 200.
func (i *Instance) AwaitReady() {
	i.t.Helper()
	Eventually(i.t, i.ID+" is ready", func() error {
		ready, err := i.Ready(i.t.Context())
		if err == nil && !ready.Ready {
			err = errors.New(strings.Join(ready.Reasons, "; "))
		}
		return err
	})
}

// Running says whether the process has been started and has not ended.
func (i *Instance) Running() bool {
	if i.process == nil {
		return false
	}
	select {
	case <-i.process.exited:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process, which must run.
func (i *Instance) Signal(signal syscall.Signal) {
	i.t.Helper()
	if !i.Running() {
		i.t.Fatalf("%s does not run", i.ID)
	}
	if err := i.process.command.Process.Signal(signal); err != nil {
		i.t.Fatalf("send %v to %s: %v", signal, i.ID, err)
	}
}

// Kill ends the process with SIGKILL and returns when it is gone.
func (i *Instance) Kill() {
	i.t.Helper()
	i.BeginKill()
	i.awaitExit()
}

// BeginKill sends SIGKILL and does not wait for the end.
func (i *Instance) BeginKill() {
	i.t.Helper()
	i.process.ended = true
	i.Signal(syscall.SIGKILL)
}

// Pause stops the process where it is, with SIGSTOP. On Linux it returns when the
// process has stopped, which it does not do at once on a machine that is busy.
func (i *Instance) Pause() {
	i.t.Helper()
	i.Signal(syscall.SIGSTOP)
	Eventually(i.t, i.ID+" is paused", func() error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.Pid()))
		if err == nil && !bytes.Contains(status, []byte("\nState:\tT")) {
			return fmt.Errorf("it is\n%s", status)
		}
		return nil
	})
}

// Resume lets a paused process go on, with SIGCONT.
func (i *Instance) Resume() { i.t.Helper(); i.Signal(syscall.SIGCONT) }

// BeginStop asks the process to stop, with SIGTERM.
func (i *Instance) BeginStop() {
	i.t.Helper()
	i.process.ended = true
	i.Signal(syscall.SIGTERM)
}

// AwaitStop waits for the end of a process that was asked to stop, and fails the
// test unless its exit status is 0.
func (i *Instance) AwaitStop() {
	i.t.Helper()
	if status := i.AwaitExit(); status != 0 {
		i.t.Errorf("%s ended with %v\n%s", i.ID, i.process.command.ProcessState, i.LastLog())
	}
}

// Stop asks the process to stop, with SIGTERM, waits for its end, and fails the
// test unless its exit status is 0.
func (i *Instance) Stop() {
	i.t.Helper()
	i.BeginStop()
	i.AwaitStop()
}

// AwaitExit waits for the end of the process, which then counts as wanted, and
// gives its exit status: -1 when a signal ended it.
func (i *Instance) AwaitExit() int {
	i.t.Helper()
	i.process.ended = true
	i.awaitExit()
	return i.process.command.ProcessState.ExitCode()
}

func (i *Instance) awaitExit() {
	i.t.Helper()
	select {
	case <-i.process.exited:
	case <-time.After(StopPatience):
		i.t.Fatalf("%s has not ended within %v\n%s", i.ID, StopPatience, i.LastLog())
	}
	i.Client.forget()
}

// Restart starts the process again, after its end, with the same directory,
// addresses and flags, and waits until its application API answers.
func (i *Instance) Restart() {
	i.t.Helper()
	i.Start()
}

// Use makes program what is started from now on.
func (i *Instance) Use(program string) { i.program = program }

// Wipe removes all that the instance has stored. Its process must have ended.
func (i *Instance) Wipe() {
	i.t.Helper()
	if i.Running() {
		i.t.Fatalf("%s runs: what it stores can't be removed", i.ID)
	}
	if err := os.RemoveAll(i.Directory); err != nil {
		i.t.Fatal(err)
	}
}

// Pid is the id of the process, which must have been started.
func (i *Instance) Pid() int { return i.process.command.Process.Pid }

// Log is all that the processes of this instance have written.
func (i *Instance) Log() string {
	content, err := os.ReadFile(i.logPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(content)
}

// LastLog is what the last process of this instance has written.
func (i *Instance) LastLog() string {
	all := i.Log()
	if i.process == nil || i.process.logFrom > int64(len(all)) {
		return ""
	}
	return all[i.process.logFrom:]
}

// checkEnd fails the test when the last process ended by itself.
func (i *Instance) checkEnd() {
	i.t.Helper()
	if i.process != nil && !i.Running() && !i.process.ended {
		i.process.ended = true
		i.t.Errorf("%s ended by itself: %v\n%s", i.ID, i.process.command.ProcessState, tail(i.LastLog()))
	}
}

// clean ends the process and looks for what it should not have said.
func (i *Instance) clean() {
	i.checkEnd()
	if i.Running() {
		i.process.ended = true
		_ = i.process.command.Process.Kill() // it also ends a paused process
		<-i.process.exited
	}
	log := i.Log()
	for _, bad := range []string{"panic: ", "fatal error: ", "made this program panic", "WARNING: DATA RACE"} {
		if at := strings.Index(log, bad); at >= 0 {
			i.t.Errorf("%s wrote:\n%s", i.ID, log[at:min(len(log), at+8<<10)])
		}
	}
	if i.t.Failed() {
		i.t.Logf("log of %s:\n%s", i.ID, tail(log))
	}
}

// tail keeps what is most likely of interest.
func tail(log string) string {
	const most = 16 << 10
	if len(log) > most {
		return "…" + log[len(log)-most:]
	}
	return log
}

// Result is what became of a process that ran to its end.
type Result struct {
	Status         int // -1 when a signal ended it
	Stdout, Stderr string
}

// Run runs the program with args, and with environ beside what the test has, and
// waits for its end. It ends the test when that takes longer than StopPatience.
func Run(t testing.TB, environ []string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StopPatience)
	defer cancel()
	command := exec.CommandContext(ctx, Program(t, Build{}), args...)
	command.Env = append(plainEnviron(), environ...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	if ctx.Err() != nil {
		t.Fatalf("it has not ended within %v:\n%s", StopPatience, &stderr)
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{command.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// plainEnviron is the environment without what would configure an instance.
func plainEnviron() []string {
	// The race detector would have every process wait for a second at its end.
	environ := []string{"GORACE=atexit_sleep_ms=0 " + os.Getenv("GORACE")}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "NODESMETADATA_") && !strings.HasPrefix(variable, "GORACE=") {
			environ = append(environ, variable)
		}
	}
	return environ
}
