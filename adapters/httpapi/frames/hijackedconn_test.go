package frames_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/frames"
)

const stalled = 30 * time.Second

// frame returns a frame that sends text.
func frame(text string) []byte { return append(make([]byte, frames.Head), text...) }

// withHijacked runs do with a stream on a hijacked connection that buffers nothing: the server
// can send only what the client reads.
func withHijacked(t *testing.T, do func(hijacked frames.Writer, client net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := net.Pipe()
		opened := make(chan frames.Writer)
		go func() {
			hijacked, err := frames.OpenHijackedConn(conn, http.Header{"Content-Type": {"text/event-stream"}}, stalled)
			if err != nil {
				t.Error(err)
			}
			opened <- hijacked
		}()
		header := make([]byte, 4<<10)
		if n, err := client.Read(header); err != nil || !strings.HasSuffix(string(header[:n]), "\r\n\r\n") {
			t.Fatalf("first read = %q, %v, want a whole header", header[:n], err)
		}
		do(<-opened, client)
		client.Close()
	})
}

func TestAHijackedConnIsCutOffWhenItsSocketTakesNothing(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, _ net.Conn) {
		for range 2 { // the second time with a deadline that is set already
			began := time.Now()
			err := hijacked.Send(frame("x"))
			if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < stalled || took > stalled*3/2 {
				t.Errorf("Send = %v after %v, want %v after %v", err, took, os.ErrDeadlineExceeded, stalled)
			}
			<-time.After(time.Second)
		}
		hijacked.Finish(false)
	})
}

// standstill is a connection whose process once stands still just before a Write.
type standstill struct {
	net.Conn
	next time.Duration
}

func (s *standstill) Write(b []byte) (int, error) {
	<-time.After(s.next)
	s.next = 0
	return s.Conn.Write(b)
}

// While the machine stands still nothing is written, which says nothing about the client.
func TestAHijackedConnIsLeftAloneWhereTheMachineStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, pipe := net.Pipe()
		defer client.Close()
		received := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(client)
			received <- all
		}()
		conn := &standstill{Conn: pipe}
		hijacked, err := frames.OpenHijackedConn(conn, http.Header{}, stalled)
		if err != nil {
			t.Fatal(err)
		}
		conn.next = stalled * 3 / 2
		if err := hijacked.Send(frame("event")); err != nil {
			t.Errorf("Send to a client that reads everything: %v", err)
		}
		hijacked.Finish(true)
		if all := <-received; !strings.HasSuffix(string(all), "0005\r\nevent\r\n0\r\n\r\n") {
			t.Errorf("received = %q, want the event and the end of the chunks", all)
		}
	})
}

func TestAHijackedConnIsLeftAloneWhoseSocketTakesAnything(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, client net.Conn) {
		sent := make(chan error)
		go func() { sent <- hijacked.Send(frame(strings.Repeat("x", 100))) }()
		for {
			select {
			case err := <-sent:
				if err != nil {
					t.Error(err)
				}
				hijacked.Finish(false)
				return
			case <-time.After(stalled * 9 / 10):
				if _, err := client.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestAHijackedConnWhoseServerClosesTakesNoLongerThanAFarewell(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, _ net.Conn) {
		sent := make(chan error)
		began := time.Now()
		go func() { sent <- hijacked.Send(frame("x")) }()
		synctest.Wait()
		hijacked.ShortenDeadlines()
		if err := <-sent; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		hijacked.Finish(true)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Finish took %v, want at most 2s", took)
		}
	})
}

// On a busy machine, the goroutine of a stream may run long after the server has begun to
// close.
func TestAHijackedConnWhoseServerClosesGivesLateLastWordsTheirTime(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, client net.Conn) {
		received := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(client)
			received <- all
		}()
		hijacked.ShortenDeadlines()
		for range 2 {
			<-time.After(5 * time.Second)
			if err := hijacked.Send(frame("bye")); err != nil {
				t.Errorf("Send to a client that reads everything: %v", err)
			}
		}
		<-time.After(5 * time.Second)
		hijacked.Finish(true)
		if all := <-received; !strings.HasSuffix(string(all), "0003\r\nbye\r\n0\r\n\r\n") {
			t.Errorf("received = %q, want bye and the end of the chunks", all)
		}
	})
}

func TestAHijackedConnTellsTheEndFromABreak(t *testing.T) {
	for whole, want := range map[bool]error{true: nil, false: io.ErrUnexpectedEOF} {
		client, conn := net.Pipe()
		texts := []string{"a", strings.Repeat("b", 0x1234), "c"}
		done := make(chan struct{})
		go func() {
			defer close(done)
			hijacked, err := frames.OpenHijackedConn(conn, http.Header{"X-Test": {"1"}}, stalled)
			for _, text := range texts {
				err = errors.Join(err, hijacked.Send(frame(text)))
			}
			if err != nil {
				t.Error(err)
			}
			hijacked.Finish(whole)
		}()
		response, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		if string(got) != strings.Join(texts, "") || !errors.Is(err, want) || response.Header.Get("X-Test") != "1" || !response.Close {
			t.Errorf("whole = %v: the body has %d bytes and ends with %v, want %v; header %v", whole, len(got), err, want, response.Header)
		}
		client.Close()
		<-done
	}
}

func TestAHijackedConnNoticesThatItsClientHasGone(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, client net.Conn) {
		if _, err := client.Write([]byte("whatever a client may still say")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if hijacked.ClientGone() {
			t.Error("ClientGone = true before the client went")
		}
		client.Close()
		synctest.Wait()
		if !hijacked.ClientGone() {
			t.Error("ClientGone = false after the client went")
		}
		hijacked.Finish(true)
	})
}
