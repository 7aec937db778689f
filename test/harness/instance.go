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

// StopPatience is how long a process may take to stop: longer than its own
// --shutdown_timeout of 10 s.
const StopPatience = 15 * time.Second

// Instance is one member of a Cluster: an id, a directory and addresses, and the
// process that runs with them, if there is one.
type Instance struct {
	ID string
	// Host is the number of the host in a Network on which it runs.
	Host int
	// Directory is where it keeps its data.
	Directory string
	// RaftBind is the address that its raft port is bound to, and RaftAddress the
	// one at which others reach it: that of Proxy, if there is one.
	RaftBind, RaftAddress string
	// Application is the address of its application API.
	Application string
	// Flags are its flags beside those that follow from the fields above.
	Flags []string
	// Proxy forwards to the raft port, in a cluster with Options.Proxied; otherwise it is nil.
	Proxy *Proxy
	// Client talks to its application API and follows redirects.
	*Client

	t       testing.TB
	program string
	environ []string
	files   int
	logPath string
	spawner *spawner
	process *process
}

// process is one run of the program for an instance.
type process struct {
	command *exec.Cmd
	exited  chan struct{} // closed after it has exited
	ended   bool          // its exit is expected
	logFrom int64         // offset in the log file where its output begins
}

// Launch starts the process without waiting for anything.
func (i *Instance) Launch() {
	i.t.Helper()
	if i.Running() {
		i.t.Fatalf("%s is already running", i.ID)
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
	if err := i.spawner.start(command); err != nil {
		i.t.Fatalf("start %s: %v", i.ID, err)
	}
	p := &process{command: command, exited: make(chan struct{}), logFrom: info.Size()}
	i.process = p
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // the exit status is read from ProcessState
	}()
}

// Args returns all command line arguments.
func (i *Instance) Args() []string {
	return append([]string{
		"--raft_id=" + i.ID,
		"--raft_dir=" + i.Directory,
		"--raft_bind_address=" + i.RaftBind,
		"--raft_advertised_address=" + i.RaftAddress,
		"--application_bind_address=" + i.Application,
	}, i.Flags...)
}

// Start launches the process, for the first time or again after it has exited, with the same
// directory, addresses and flags, and waits until its application API answers.
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

// AwaitReady waits until /readyz answers 200.
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

// Running reports whether the process was started and has not exited.
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

// Signal sends a signal to the process, which must be running.
func (i *Instance) Signal(signal syscall.Signal) {
	i.t.Helper()
	if !i.Running() {
		i.t.Fatalf("%s is not running", i.ID)
	}
	if err := i.process.command.Process.Signal(signal); err != nil {
		i.t.Fatalf("send %v to %s: %v", signal, i.ID, err)
	}
}

// Kill sends SIGKILL to the process and waits until it has exited.
func (i *Instance) Kill() {
	i.t.Helper()
	i.BeginKill()
	i.awaitExit()
}

// BeginKill sends SIGKILL and does not wait for the exit.
func (i *Instance) BeginKill() {
	i.t.Helper()
	i.process.ended = true
	i.Signal(syscall.SIGKILL)
}

// Pause suspends the process with SIGSTOP. On Linux it waits until the process is
// suspended, which takes a moment on a busy machine.
func (i *Instance) Pause() {
	i.t.Helper()
	i.Signal(syscall.SIGSTOP)
	Eventually(i.t, i.ID+" is paused", func() error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.Pid()))
		if err == nil && !bytes.Contains(status, []byte("\nState:\tT")) {
			return fmt.Errorf("status of the process =\n%s", status)
		}
		return nil
	})
}

// Resume continues a paused process with SIGCONT.
func (i *Instance) Resume() { i.t.Helper(); i.Signal(syscall.SIGCONT) }

// BeginStop sends SIGTERM to the process.
func (i *Instance) BeginStop() {
	i.t.Helper()
	i.process.ended = true
	i.Signal(syscall.SIGTERM)
}

// AwaitStop waits until a process that was asked to stop has exited, and fails the
// test unless its exit status is 0.
func (i *Instance) AwaitStop() {
	i.t.Helper()
	if status := i.AwaitExit(); status != 0 {
		i.t.Errorf("%s ended with %v\n%s", i.ID, i.process.command.ProcessState, i.LastLog())
	}
}

// Stop sends SIGTERM to the process, waits until it has exited, and fails the test
// unless its exit status is 0.
func (i *Instance) Stop() {
	i.t.Helper()
	i.BeginStop()
	i.AwaitStop()
}

// AwaitExit waits until the process exits by itself, which the test expects, and
// returns its exit status: -1 if a signal ended it.
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

// Use makes later starts run program.
func (i *Instance) Use(program string) { i.program = program }

// Wipe removes all stored data of the instance. Its process must have exited.
func (i *Instance) Wipe() {
	i.t.Helper()
	if i.Running() {
		i.t.Fatalf("%s is running, so its data can't be removed", i.ID)
	}
	if err := os.RemoveAll(i.Directory); err != nil {
		i.t.Fatal(err)
	}
}

// Pid returns the id of the process, which must have been started.
func (i *Instance) Pid() int { return i.process.command.Process.Pid }

// Log returns the output of all processes of the instance.
func (i *Instance) Log() string {
	content, err := os.ReadFile(i.logPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(content)
}

// LastLog returns the output of the latest process of the instance.
func (i *Instance) LastLog() string {
	all := i.Log()
	if i.process == nil || i.process.logFrom > int64(len(all)) {
		return ""
	}
	return all[i.process.logFrom:]
}

// checkEnd fails the test if the latest process exited without being asked to.
func (i *Instance) checkEnd() {
	i.t.Helper()
	if i.process != nil && !i.Running() && !i.process.ended {
		i.process.ended = true
		i.t.Errorf("%s ended by itself: %v\n%s", i.ID, i.process.command.ProcessState, tail(i.LastLog()))
	}
}

// clean ends the process and fails the test for panics and data races in its log.
func (i *Instance) clean() {
	i.checkEnd()
	if i.Running() {
		i.process.ended = true
		_ = i.process.command.Process.Kill() // SIGKILL also ends a paused process
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

// tail shortens a log to the part most likely to matter.
func tail(log string) string {
	const most = 16 << 10
	if len(log) > most {
		return "…" + log[len(log)-most:]
	}
	return log
}

// Result is the outcome of a process that ran to its end.
type Result struct {
	Status         int // -1 if a signal ended it
	Stdout, Stderr string
}

// Run runs the program with args, and with environ added to the environment of the
// test, and waits until it exits. It fails and ends the test if that takes longer
// than StopPatience.
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
		t.Fatalf("the program has not ended within %v:\n%s", StopPatience, &stderr)
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{command.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// plainEnviron returns the environment without variables that would configure an instance.
func plainEnviron() []string {
	// Otherwise the race detector makes every process sleep for a second when it exits.
	environ := []string{"GORACE=atexit_sleep_ms=0 " + os.Getenv("GORACE")}
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "NODESMETADATA_") && !strings.HasPrefix(variable, "GORACE=") {
			environ = append(environ, variable)
		}
	}
	return environ
}
