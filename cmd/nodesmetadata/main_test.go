package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// actAsProgram makes this test binary be the program itself.
const actAsProgram = "TEST_BINARY_ACTS_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(actAsProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is a process that serves.
type program struct {
	*testing.T
	command *exec.Cmd
	stderr  io.Closer
	lines   *bufio.Scanner
	address string
}

// run starts the program, through the command before, which may be none.
func run(t *testing.T, before ...string) *program {
	t.Helper()
	args := append(before, os.Args[0],
		"--raft_id=n1", "--raft_dir="+t.TempDir(), "--bootstrap_raft_cluster", "--shutdown_timeout=60s",
		"--raft_bind_address=127.0.0.1:0", "--application_bind_address=127.0.0.1:0")
	p := &program{T: t, command: exec.Command(args[0], args[1:]...)}
	p.command.Env = append(os.Environ(), actAsProgram+"=yes")
	stderr, err := p.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stderr = stderr
	// A child ignores what its parent ignores, as under nohup, but not what that one catches.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.command.Process.Kill() })
	p.lines = bufio.NewScanner(stderr)
	line := p.await("instance is starting")
	_, p.address, _ = strings.Cut(line, "application_advertised_address=")
	p.await("instance is serving")
	return p
}

// await reads the log up to a line with these words.
func (p *program) await(words string) string {
	p.Helper()
	for p.lines.Scan() {
		if line := p.lines.Text(); strings.Contains(line, words) {
			return line
		}
	}
	p.Fatalf("the log ended without %q", words)
	return ""
}

func (p *program) signal(s syscall.Signal) {
	p.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		p.Fatal(err)
	}
}

// end gives what the process ended with.
func (p *program) end() syscall.WaitStatus {
	p.Helper()
	// Wait must not be called before the pipe is read to its end.
	for p.lines.Scan() {
	}
	err := p.command.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		p.Fatal(err)
	}
	return p.command.ProcessState.Sys().(syscall.WaitStatus)
}

// holdUp keeps a graceful stop waiting: for a request whose body does not come.
func (p *program) holdUp() {
	p.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprint(conn, "PUT /nodes/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n")
	if err != nil {
		p.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 100"))); err != nil {
		p.Fatal(err)
	}
}

// endsWith0 fails the test unless it ends by itself, with exit status 0.
func (p *program) endsWith0() {
	p.Helper()
	if status := p.end(); !status.Exited() || status.ExitStatus() != 0 {
		p.Errorf("it ended with %#x", status)
	}
}

// setting gives what the process began with in its environment.
func (p *program) setting(name string) string {
	p.Helper()
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.command.Process.Pid))
	if err != nil {
		p.Fatal(err)
	}
	for variable := range strings.SplitSeq(string(environ), "\x00") {
		if value, found := strings.CutPrefix(variable, name+"="); found {
			return value
		}
	}
	return ""
}

func TestTheRuntimesMonitorIsKeptAwake(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("skipped: only Linux shows what another process began with")
	}
	for given, want := range map[string]string{
		"":                                "schedtrace=2147483647",
		"netdns=go":                       "netdns=go,schedtrace=2147483647",
		"schedtrace=0,netdns=go":          "schedtrace=0,netdns=go",
		"netdns=go,schedtrace=2147483647": "netdns=go,schedtrace=2147483647",
	} {
		t.Run(given, func(t *testing.T) {
			t.Setenv("GODEBUG", given)
			p := run(t)
			if got := p.setting("GODEBUG"); got != want {
				t.Errorf("GODEBUG is %q, want %q", got, want)
			}
			p.signal(syscall.SIGTERM)
			p.await("instance has stopped")
			p.endsWith0()
		})
	}
}

func TestASignalEndsItWithStatus0(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			p := run(t)
			p.signal(signal)
			p.await("instance has stopped")
			p.endsWith0()
		})
	}
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	p := run(t)
	p.holdUp()
	p.signal(syscall.SIGTERM)
	p.await("instance is stopping")
	began := time.Now()
	p.signal(syscall.SIGTERM)
	if status := p.end(); !status.Exited() || status.ExitStatus() != 128+int(syscall.SIGTERM) {
		t.Errorf("it ended with %#x", status)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A terminal that goes away says so more than once, by its shell and by the kernel; a
// supervisor may say so beside its SIGTERM.
func TestHangingUpIsNoHurry(t *testing.T) {
	p := run(t)
	p.holdUp()
	p.signal(syscall.SIGHUP)
	p.await("instance is stopping")
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	p.await("instance has stopped")
	p.endsWith0()
}

func TestWithNohupItGoesOnWhenItsTerminalIsGone(t *testing.T) {
	p := run(t, "sh", "-c", `trap "" HUP; exec "$@"`, "sh")
	p.signal(syscall.SIGHUP)
	for range 20 { // Were it not ignored, it would soon take no more.
		p.put("/nodes/a", `{"address":"a:1"}`)
	}
	p.signal(syscall.SIGTERM)
	p.await("instance has stopped")
	p.endsWith0()
}

func TestItGoesOnWhenNobodyCanReadItsLog(t *testing.T) {
	p := run(t)
	if err := p.stderr.Close(); err != nil {
		t.Fatal(err)
	}
	// The member that can't be reached, and the stop, are worth a line each.
	p.put("/raft/node?force=true", `{"id":"n2","address":"127.0.0.1:1","suffrage":"nonvoter"}`)
	p.put("/nodes/a", `{"address":"a:1"}`)
	p.signal(syscall.SIGTERM)
	p.endsWith0()
}

// A pipe that is full holds up whoever writes to it. Were that raft, a leader would decide
// nothing, and the others would go on following it.
func TestItGoesOnWhenNobodyReadsItsLog(t *testing.T) {
	p := run(t)
	p.fillLog()
	p.put("/raft/node?force=true", `{"id":"n2","address":"127.0.0.1:1","suffrage":"nonvoter"}`)
	p.put("/nodes/a", `{"address":"a:1"}`)
	p.await("updating configuration")
	p.fillLog()
	p.signal(syscall.SIGTERM)
	defer time.AfterFunc(20*time.Second, func() { _ = p.command.Process.Kill() }).Stop()
	if err := p.command.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// fillLog leaves no room in the pipe to which the log goes.
func (p *program) fillLog() {
	p.Helper()
	pipe, err := syscall.Open(fmt.Sprintf("/proc/%d/fd/2", p.command.Process.Pid), syscall.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		p.Skipf("the pipe of a process can only be filled on Linux: %v", err)
	}
	defer func() { _ = syscall.Close(pipe) }()
	for size := 4096; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = syscall.Write(pipe, bytes.Repeat([]byte("\n"), size))
		}
		if !errors.Is(err, syscall.EAGAIN) {
			p.Fatal(err)
		}
	}
}

// put asks the application API until it does that, and fails the test when it never does.
func (p *program) put(path, body string) {
	p.Helper()
	said := ""
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		request, err := http.NewRequestWithContext(p.Context(), http.MethodPut, "http://"+p.address+path, strings.NewReader(body))
		if err != nil {
			p.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			p.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			p.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode < 300 {
			return
		}
		said = response.Status + " " + string(answer)
	}
	p.Fatalf("%s is answered %s", path, said)
}

func TestMisuseEndsItWithStatus2(t *testing.T) {
	command := exec.Command(os.Args[0], "--no_such_flag")
	command.Env = append(os.Environ(), actAsProgram+"=yes")
	output, _ := command.CombinedOutput()
	if status := command.ProcessState.ExitCode(); status != 2 || !strings.Contains(string(output), "unknown flag: --no_such_flag") {
		t.Errorf("status %d: %s", status, output)
	}
}
