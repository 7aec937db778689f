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

// actAsProgram names the variable that makes this test binary act as the program.
const actAsProgram = "TEST_BINARY_ACTS_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(actAsProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is a running process of the program.
type program struct {
	*testing.T
	command *exec.Cmd
	stderr  io.Closer
	lines   *bufio.Scanner
	address string
}

// run starts the program. If before is given, it is a command that starts the program as
// its last arguments.
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
	// A child inherits the signals that its parent ignores, as under nohup, but not those
	// that the parent catches.
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

// await reads the log up to a line with these words, and returns that line.
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

// end waits for the process to end, and returns its status.
func (p *program) end() syscall.WaitStatus {
	p.Helper()
	// Wait closes the pipe, so the pipe must be read to its end before.
	for p.lines.Scan() {
	}
	err := p.command.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		p.Fatal(err)
	}
	return p.command.ProcessState.Sys().(syscall.WaitStatus)
}

// holdUp delays a graceful stop with a request whose body does not come.
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

// endsWith0 fails the test unless the process exits with status 0.
func (p *program) endsWith0() {
	p.Helper()
	if status := p.end(); !status.Exited() || status.ExitStatus() != 0 {
		p.Errorf("wait status = %#x, want an exit with 0", status)
	}
}

// setting returns a variable of the environment that the process started with.
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
		t.Skip("skipped: only Linux shows the environment of another process")
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
				t.Errorf("GODEBUG = %q, want %q", got, want)
			}
			p.signal(syscall.SIGTERM)
			p.await("instance has stopped")
			p.endsWith0()
		})
	}
}

func TestASignalStopsTheProgramWithStatus0(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			p := run(t)
			p.signal(signal)
			p.await("instance has stopped")
			p.endsWith0()
		})
	}
}

func TestASecondSignalStopsTheProgramAtOnce(t *testing.T) {
	p := run(t)
	p.holdUp()
	p.signal(syscall.SIGTERM)
	p.await("instance is stopping")
	began := time.Now()
	p.signal(syscall.SIGTERM)
	if status := p.end(); !status.Exited() || status.ExitStatus() != 128+int(syscall.SIGTERM) {
		t.Errorf("wait status = %#x, want an exit with %d", status, 128+int(syscall.SIGTERM))
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the stop took %v, want at most 2s", took)
	}
}

// A closing terminal sends SIGHUP more than once, through the shell and through the kernel,
// and a supervisor may send one beside its SIGTERM.
func TestARepeatedHangupDoesNotHastenTheStop(t *testing.T) {
	p := run(t)
	p.holdUp()
	p.signal(syscall.SIGHUP)
	p.await("instance is stopping")
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	p.await("instance has stopped")
	p.endsWith0()
}

func TestUnderNohupTheProgramOutlivesItsTerminal(t *testing.T) {
	p := run(t, "sh", "-c", `trap "" HUP; exec "$@"`, "sh")
	p.signal(syscall.SIGHUP)
	for range 20 { // if SIGHUP were not ignored, one of these would soon fail
		p.put("/nodes/a", `{"address":"a:1"}`)
	}
	p.signal(syscall.SIGTERM)
	p.await("instance has stopped")
	p.endsWith0()
}

func TestTheProgramGoesOnWhenItsLogIsClosed(t *testing.T) {
	p := run(t)
	if err := p.stderr.Close(); err != nil {
		t.Fatal(err)
	}
	// The member that can't be reached and the stop are each logged.
	p.put("/raft/node?force=true", `{"id":"n2","address":"127.0.0.1:1","suffrage":"nonvoter"}`)
	p.put("/nodes/a", `{"address":"a:1"}`)
	p.signal(syscall.SIGTERM)
	p.endsWith0()
}

// A full pipe blocks whoever writes to it. If that were raft, a leader would commit
// nothing, and the followers would keep following it.
func TestTheProgramGoesOnWhenNobodyReadsItsLog(t *testing.T) {
	p := run(t)
	p.fillLog()
	p.put("/raft/node?force=true", `{"id":"n2","address":"127.0.0.1:1","suffrage":"nonvoter"}`)
	p.put("/nodes/a", `{"address":"a:1"}`)
	p.await("updating configuration")
	p.fillLog()
	p.signal(syscall.SIGTERM)
	defer time.AfterFunc(20*time.Second, func() { _ = p.command.Process.Kill() }).Stop()
	if err := p.command.Wait(); err != nil {
		t.Errorf("error of the process = %v, want none", err)
	}
}

// fillLog fills the pipe that the log is written to.
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

// put repeats a PUT to the application API until it succeeds, and fails the test if it
// never does.
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
	p.Fatalf("answer to PUT %s = %s, want success", path, said)
}

func TestMisuseEndsTheProgramWithStatus2(t *testing.T) {
	command := exec.Command(os.Args[0], "--no_such_flag")
	command.Env = append(os.Environ(), actAsProgram+"=yes")
	output, _ := command.CombinedOutput()
	if status := command.ProcessState.ExitCode(); status != 2 || !strings.Contains(string(output), "unknown flag: --no_such_flag") {
		t.Errorf("status = %d, output = %s, want 2 and the unknown flag", status, output)
	}
}
