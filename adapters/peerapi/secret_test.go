package peerapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/adapters/preface"
)

func knows(secret string) *preface.Preface {
	if secret == "" {
		return nil
	}
	return &preface.Preface{Purpose: preface.Questions, RaftID: "n1", Secret: []byte(secret)}
}

func knowing(t *testing.T, secret string) *peerapi.Client {
	t.Helper()
	c := peerapi.NewClient(knows(secret))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	return c
}

func TestAClientWithTheSecretIsAnswered(t *testing.T) {
	i, c := startGuarded(t, "127.0.0.1:0", knows("s")), knowing(t, "s")
	i.leads(12)
	for range 5 {
		if got, err := c.Identify(within(t, 5*time.Second), i.address()); err != nil || got != someone {
			t.Fatalf("Identify = %+v, %v, want %+v", got, err, someone)
		}
		if got, err := c.ReadIndex(within(t, 5*time.Second), i.address()); err != nil || got.Index != 12 {
			t.Fatalf("ReadIndex = %+v, %v, want 12", got, err)
		}
	}
	if n := i.connections(); n != 1 {
		t.Errorf("connections for ten requests = %d, want 1", n)
	}
}

func TestAClientWithoutTheSecretLearnsNothing(t *testing.T) {
	tests := map[string]struct {
		server, client string
		err            error
		says           string
	}{
		"the client has another": {"s1", "s2", preface.ErrWrongSecret, "raft secret"},
		"the client has none":    {"s1", "", preface.ErrNoSecret, "raft secret and the other has none: it is missing here"},
		"the server has none":    {"", "s2", preface.ErrNoSecret, "raft secret and the other has none: it is missing there"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i, c := startGuarded(t, "127.0.0.1:0", knows(test.server)), knowing(t, test.client)
			began := time.Now()
			got, err := c.Identify(within(t, time.Second), i.address())
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Identify = %+v, %v, want %v with %q", got, err, test.err, test.says)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("Identify took %v, want at most 2s", took)
			}
			if n := i.connections(); n != 0 {
				t.Errorf("connections that reached HTTP = %d, want none", n)
			}
		})
	}
}

func TestAnInstanceWithASecretParsesNoRequestsOfStrangers(t *testing.T) {
	i := startGuarded(t, "127.0.0.1:0", knows("s"))
	if response, body := ask(t, i.address(), "GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n"); response.StatusCode != http.StatusForbidden ||
		strings.Contains(body, someone.RaftID) {
		t.Errorf("answer to a request without a proof = %d %s, want 403 without the id", response.StatusCode, body)
	}
	strangers := map[string]string{
		"a header without end":  "GET /metadata HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20),
		"silence":               "",
		"half a preface":        "\x01\x00abc",
		"a preface, no proof":   "\x01\x00" + strings.Repeat("n", 32) + "\x00\x01x\x01",
		"a preface, a bad one":  "\x01\x00" + strings.Repeat("n", 32) + "\x00\x01x\x01" + strings.Repeat("p", 32),
		"the longest of hellos": "\x01\x00" + strings.Repeat("n", 32) + "\xff" + strings.Repeat("c", 255) + "\xff" + strings.Repeat("i", 255) + "\x01",
	}
	for name, said := range strangers {
		conn := dial(t, i.address())
		began := time.Now()
		_, _ = io.WriteString(conn, said)
		_, err := io.Copy(io.Discard, conn)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the connection was never closed", name)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s: the connection was closed after %v, want at most 4s", name, took)
		}
	}
	if n := i.connections(); n != 0 {
		t.Errorf("connections that reached HTTP = %d, want none", n)
	}
}

// A peer that does not know the secret must not receive the request.
func TestAServerWithoutTheSecretGetsNoRequest(t *testing.T) {
	heard := make(chan string, 1)
	address := impostor(t, func(conn net.Conn) {
		// The most that a stranger can send: a hello and an invalid proof.
		_, _ = io.WriteString(conn, "\x01\x00"+strings.Repeat("n", 32)+"\x00\x02n2\x01"+strings.Repeat("p", 32))
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		all, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection to a stranger was not closed")
		}
		heard <- string(all)
	})
	if _, err := knowing(t, "s").Identify(within(t, 5*time.Second), address); !errors.Is(err, preface.ErrWrongSecret) {
		t.Errorf("error = %v, want %v", err, preface.ErrWrongSecret)
	}
	if said := <-heard; strings.Contains(said, "HTTP") || len(said) > 64 {
		t.Errorf("bytes sent to a stranger = %q, want no request", said)
	}
}

func TestCloseEndsAProofThatNobodyAnswers(t *testing.T) {
	connected := make(chan struct{})
	address := impostor(t, func(conn net.Conn) {
		close(connected)
		_, _ = io.Copy(io.Discard, conn)
	})
	c := peerapi.NewClient(knows("s"))
	failed := make(chan error, 1)
	go func() {
		_, err := c.Identify(context.Background(), address)
		failed <- err
	}()
	<-connected
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("Identify succeeded without an answer")
	}
}

// Earlier builds without a secret wait for the end of a line.
func TestASilentServerMayHaveNoSecret(t *testing.T) {
	address := impostor(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	_, err := knowing(t, "s").Identify(within(t, 5*time.Second), address)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "may have no raft secret") {
		t.Errorf("error = %v, want that the other may have no raft secret", err)
	}
}

// Without a secret, the first byte decides what follows, and is part of it.
func TestARequestSentByteByByteIsAnswered(t *testing.T) {
	i := start(t, "127.0.0.1:0")
	conn := dial(t, i.address())
	for _, b := range []byte("GET /metadata HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") || !strings.Contains(string(answer), someone.RaftID) {
		t.Errorf("answer = %q, %v, want 200 with the id", answer, err)
	}
}
