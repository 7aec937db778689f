package e2e_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

const (
	// maxGrowth is how much more memory a process may take, whatever is sent to it.
	maxGrowth = 32 << 20
	// raftPatience is how long a useless connection to the raft port may live: two
	// seconds are promised, and the rest is a margin for a busy machine.
	raftPatience = 3 * time.Second
	// crowdSize is the number of concurrent useless connections to each port. Each
	// port limits how many of them stay open.
	crowdSize = 1500
)

// hostile dials from a local address that no instance has.
var hostile = net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}

func TestHostileConnectionsHarmNobody(t *testing.T) {
	anyBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Backend: backend, Flags: calm, Build: harness.Build{Plain: true}})
		for n := range 20 {
			put(t, c.Instances[n%3].Client, fmt.Sprintf("node-%d", n))
		}
		canary := startCanary(t, c)
		canary.await(t, 100)
		memory := watchMemory(t, c)
		leader := c.Leader()
		var all sync.WaitGroup
		for _, attack := range []func(*testing.T, *harness.Instance){
			raftPortGarbage, raftPortSilence, halfOpen, slowHeaders, slowBody, hugeBodies,
		} {
			all.Go(func() { attack(t, leader) })
		}
		all.Wait()
		canary.check(t)
		memory.check(t)
		if registry := checkDense(t, leader.Client); len(registry.Nodes) != 21 {
			t.Errorf("nodes after the attacks = %d, want 21", len(registry.Nodes))
		}
		checkMembers(t, c)
	})
}

// However many clients connect, enough file descriptors remain for the log and for peers.
func TestClientsLeaveFileDescriptorsForTheLog(t *testing.T) {
	const files, most = 160, 80
	c := harness.Start(t, harness.Options{Files: files, Flags: calm})
	leader := c.Leader()
	put(t, leader.Client, "before") // over a connection that stays open
	held := 0
	for range files {
		conn, err := net.DialTimeout("tcp", leader.Application, patience)
		if err != nil {
			t.Fatalf("dial with %d connections held: %v", held, err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
		switch n, err := conn.Read(make([]byte, 1024)); {
		case n > 0:
			held++
		case os.IsTimeout(err):
			t.Fatalf("with %d connections held, the next one is neither answered nor refused", held)
		}
	}
	if held < most/2 || held > most {
		t.Errorf("connections held = %d, want %d to %d", held, most/2, most)
	}
	awaitLog(t, leader, "connections are refused")

	labels := map[string]string{}
	for n := range 16 {
		labels[fmt.Sprintf("label-%d", n)] = strings.Repeat("v", 200)
	}
	for part := range 4 { // more than a segment of the log holds
		nodes := make([]harness.Node, 200)
		for n := range nodes {
			nodes[n] = harness.NewNode(fmt.Sprintf("big-%d-%d", part, n))
			nodes[n].Labels = labels
		}
		register(t, leader.Client, nodes)
	}
	follower := c.Followers()[0]
	follower.Kill()
	follower.Start()
	follower.AwaitReady()
	if now := metadata(t, follower.With("redirect=false")); now.LeaderNodeID != leader.ID {
		t.Errorf("leader = %s, want %s as before", now.LeaderNodeID, leader.ID)
	}
}

// raftPortGarbage sends bytes that no instance would send.
func raftPortGarbage(t *testing.T, i *harness.Instance) {
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise) // never fails
	// Without a secret, this preface is known to everybody.
	preface := "\x01" + "\x01\x00" + strings.Repeat("\x00", 32) + "\x00" + "\x01x" + "\x00"
	for name, bytes := range map[string]string{
		"an unknown lane":                "\x7fhello",
		"HTTP without a lane":            "GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n",
		"a TLS hello":                    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"zeros":                          strings.Repeat("\x00", 10_000),
		"raft RPC without a preface":     "\x01\x00\x00\x00\x00" + string(noise),
		"noise on raft's lane":           "\x01" + string(noise),
		"a preface of a version to come": "\x01\xff" + string(noise[:200]),
		"noise behind a preface":         preface + "\xff" + string(noise),
		"two billion entries":            preface + "\x00\x81\xa7Entries\xdd\x7f\xff\xff\xff",
		"a vote of two gigabytes":        preface + "\x01\x81\xa9Candidate\xc6\x7f\xff\xff\xff",
		"noise on the metadata's lane":   "\x02" + string(noise),
		"no HTTP on the metadata's lane": "\x02hello\r\n\r\n",
		"an unknown path":                "\x02GET /nodes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"a method that is not allowed":   "\x02PUT /metadata HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
		"headers without end":            "\x02GET /metadata HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20),
	} {
		for range 3 {
			began := time.Now()
			answer, err := exchange(i.RaftBind, bytes)
			if took := time.Since(began); err != nil || took > raftPatience {
				t.Errorf("%s: the connection was closed after %v (%v), want at most %v", name, took, err, raftPatience)
			}
			if answer != "" && !strings.HasPrefix(answer, "HTTP/1.1 4") && bytes[0] == 2 {
				t.Errorf("%s: answer = %.100q, want a status of 4xx", name, answer)
			}
		}
	}
}

// raftPortSilence stops sending at each point of the protocol where that is possible.
func raftPortSilence(t *testing.T, i *harness.Instance) {
	var all sync.WaitGroup
	for name, bytes := range map[string]string{
		"before the lane":          "",
		"after raft's lane":        "\x01",
		"in the preface":           "\x01\x01\x00",
		"after the metadata lane":  "\x02",
		"in a request of metadata": "\x02GET /metadata HTTP/1.1\r\nHo",
	} {
		all.Go(func() {
			began := time.Now()
			_, err := exchange(i.RaftBind, bytes)
			if took := time.Since(began); err != nil || took > raftPatience {
				t.Errorf("silence %s: the connection was closed after %v (%v), want at most %v", name, took, err, raftPatience)
			}
		})
	}
	all.Wait()
}

// halfOpen opens many connections to both ports and sends nothing or little, until
// they are closed.
func halfOpen(t *testing.T, i *harness.Instance) {
	var all sync.WaitGroup
	open := func(address string, words ...string) {
		for n := range crowdSize {
			all.Go(func() {
				sent := words[n%len(words)]
				if _, err := exchange(address, sent); err != nil && !isRefused(err) {
					t.Errorf("one of many connections, which sent %q, was not closed: %v", sent, err)
				}
			})
		}
	}
	open(i.RaftBind, "", "\x01", "\x02", "\x02GET ")
	open(i.Application, "", "GET /nodes HT", "GET /nodes HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"PUT /nodes/a HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{")
	all.Wait()
}

// isRefused reports whether dialling failed.
func isRefused(err error) bool {
	fault := new(net.OpError)
	return errors.As(err, &fault) && fault.Op == "dial"
}

// slowHeaders sends a byte of the headers now and then.
func slowHeaders(t *testing.T, i *harness.Instance) {
	drip(t, i.Application, "slow headers", "GET /nodes HTTP/1.1\r\nHost: x\r\nX: ")
}

// slowBody sends a byte of the body now and then.
func slowBody(t *testing.T, i *harness.Instance) {
	drip(t, i.Application, "a slow body", "PUT /nodes HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{\"id\":\"")
}

// drip sends the beginning and then a byte now and then, until the connection is closed.
func drip(t *testing.T, address, what, beginning string) {
	conn, err := hostile.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	_, _ = io.WriteString(conn, beginning)
	answer := make([]byte, 1)
	for {
		_, _ = io.WriteString(conn, "x")
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := conn.Read(answer)
		took := time.Since(began)
		switch {
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return
		case took > patience+time.Second: // a margin for a busy machine
			t.Errorf("%s: the connection is still open after %v, want it closed after at most %v", what, took, patience)
			return
		}
	}
}

// hugeBodies sends far more than the server accepts, with and without announcing the length.
func hugeBodies(t *testing.T, i *harness.Instance) {
	const size = 100 << 20
	var all sync.WaitGroup
	for name, head := range map[string]string{
		"a body with its length": fmt.Sprintf("PUT /nodes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size),
		"a body in one chunk":    fmt.Sprintf("PUT /nodes/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", size),
		"an instance's body":     fmt.Sprintf("PUT /raft/node HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", size),
		"a body of a read":       fmt.Sprintf("GET /nodes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size),
		"a body on the raft port": fmt.Sprintf("\x02GET /metadata HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
			size),
	} {
		address := i.Application
		if head[0] == 2 {
			address = i.RaftBind
		}
		all.Go(func() {
			if sent := pour(address, head, size); sent > size/2 {
				t.Errorf("%s: the server took %d bytes, want at most %d", name, sent, size/2)
			}
		})
	}
	all.Wait()
}

// pour sends head and up to size bytes, and returns how many bytes were accepted.
func pour(address, head string, size int) (sent int) {
	conn, err := hostile.Dial("tcp", address)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, head)
	bytes := make([]byte, 64<<10)
	for sent < size {
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		n, err := conn.Write(bytes)
		sent += n
		if err != nil {
			return sent
		}
	}
	return sent
}
