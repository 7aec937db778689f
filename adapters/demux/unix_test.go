//go:build unix

package demux_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// fewFilesEnv makes a process of this test binary serve with few files.
const fewFilesEnv = "DEMUX_TEST_FEW_FILES"

const fewFiles = 40

// serveWithFewFiles is a process with hardly any file descriptors. It echoes on
// lane a, and answers each line of its input with its Stats.AcceptErrors.
func serveWithFewFiles() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	var limit syscall.Rlimit
	fail(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	limit.Cur = fewFiles
	fail(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	fail(err)
	lane, err := port.Lane('a', demux.LaneConfig{})
	fail(err)
	fail(port.Open(context.Background()))
	go func() {
		for {
			conn, err := lane.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	fmt.Println(port.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(port.Stats().AcceptErrors)
	}
	fail(port.Close())
}

func TestAFailedAcceptIsRetriedWithoutSpinning(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := exec.CommandContext(t.Context(), binary)
	process.Env = append(os.Environ(), fewFilesEnv+"=1")
	process.Stderr = os.Stderr
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	read := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the process printed nothing: %v", lines.Err())
		}
		return lines.Text()
	}
	address := read()
	acceptErrors := func() int {
		t.Helper()
		send := strings.NewReader("\n")
		if _, err := io.Copy(input, send); err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(read())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	began := time.Now()
	var flood []net.Conn
	for range fewFiles + 10 {
		flood = append(flood, dial(t, address, 'a'))
	}
	eventually(t, "accept fails again and again", func() bool { return acceptErrors() >= 8 })
	// The pause grows from 5 to 100 ms, and timers never come early.
	failed := acceptErrors()
	if most := 6 + int(time.Since(began)/(100*time.Millisecond)); failed > most {
		t.Errorf("accept failed %d times in %v, want at most %d", failed, time.Since(began), most)
	}
	for _, conn := range flood {
		_ = conn.Close()
	}
	client := dial(t, address, 'a')
	send(t, client, "echo")
	expect(t, client, "echo")
	_ = client.Close()

	_ = input.Close()
	if err := process.Wait(); err != nil {
		t.Errorf("the process ended with %v, want success", err)
	}
}

func TestAnUnansweredDialEndsWithItsContext(t *testing.T) {
	address := deaf(t)
	tests := map[string]struct {
		context func() (context.Context, context.CancelFunc)
		ended   func(error) bool
	}{
		"which is canceled": {
			context: func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(50*time.Millisecond, cancel)
				return ctx, cancel
			},
			ended: func(err error) bool { return errors.Is(err, context.Canceled) },
		},
		"which has a deadline": {
			context: func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), 50*time.Millisecond)
			},
			ended: isTimeout,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := test.context()
			defer cancel()
			began := time.Now()
			conn, err := demux.Dial(ctx, address, 'a')
			if !test.ended(err) {
				t.Errorf("Dial = %v, %v, want the end of its context", conn, err)
			}
			if took := time.Since(began); took > patience/2 {
				t.Errorf("Dial took %v, want at most %v", took, patience/2)
			}
		})
	}
}

// deaf is an address at which connections are neither accepted nor refused: its
// listener has no room for one more.
func deaf(t *testing.T) string {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(socket) })
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(socket, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the queue of the listener never fills up")
	return ""
}
