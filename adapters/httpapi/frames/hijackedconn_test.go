package frames_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/frames"
)

const stalled = 30 * time.Second

// frame returns a frame that sends text.
func frame(text string) []byte { return append(make([]byte, frames.Head), text...) }

func ignore() {}

// withHijacked runs do with a stream on a hijacked connection that buffers nothing: the server
// can send only what the client reads.
func withHijacked(t *testing.T, do func(hijacked frames.Writer, client net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := net.Pipe()
		opened := make(chan frames.Writer)
		go func() {
			hijacked, err := frames.OpenHijackedConn(conn, http.Header{"Content-Type": {"text/event-stream"}}, stalled, ignore)
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
			if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < stalled || took > stalled+stalled/30 {
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
		hijacked, err := frames.OpenHijackedConn(conn, http.Header{}, stalled, ignore)
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

// The socket takes a byte when Send is about to give up.
func TestAHijackedConnIsLeftAloneThatTakesSomethingAtTheLastMoment(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, client net.Conn) {
		go func() {
			<-time.After(stalled + stalled/128)
			_, _ = client.Read(make([]byte, 1))
			<-time.After(stalled * 9 / 10)
			_, _ = io.Copy(io.Discard, client)
		}()
		if err := hijacked.Send(frame("event")); err != nil {
			t.Error(err)
		}
		hijacked.Finish(true)
	})
}

func TestAHijackedConnWhoseServerClosesTakesNoLongerThanAFarewell(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, _ net.Conn) {
		sent := make(chan error)
		began := time.Now()
		go func() { sent <- hijacked.Send(frame("x")) }()
		synctest.Wait()
		hijacked.ShortenDeadlines()
		if err := <-sent; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Send = %v after %v, want %v after 1s", err, time.Since(began), os.ErrDeadlineExceeded)
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
		texts := []string{"a", strings.Repeat("b", 0xbeef), "c"}
		done := make(chan struct{})
		go func() {
			defer close(done)
			hijacked, err := frames.OpenHijackedConn(conn, http.Header{"X-Test": {"1", "2"}}, stalled, ignore)
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
		if date, err := http.ParseTime(response.Header.Get("Date")); err != nil || time.Since(date).Abs() > time.Minute {
			t.Errorf("date = %v, %v, want the time", date, err)
		}
		got, err := io.ReadAll(response.Body)
		if string(got) != strings.Join(texts, "") || !errors.Is(err, want) || !slices.Equal(response.Header["X-Test"], []string{"1", "2"}) || !response.Close {
			t.Errorf("whole = %v: the body has %d bytes and ends with %v, want %v; header %v", whole, len(got), err, want, response.Header)
		}
		client.Close()
		<-done
	}
}

func TestAHijackedConnNoticesThatItsClientHasGone(t *testing.T) {
	for name, leave := range map[string]func(net.Conn){
		"because it closes the connection": func(client net.Conn) { client.Close() },
		"because it goes on sending":       func(client net.Conn) { _, _ = client.Write(make([]byte, 64<<10)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, conn := net.Pipe()
				defer client.Close()
				go func() { _, _ = client.Read(make([]byte, 4<<10)) }()
				var hijacked frames.Writer
				left := 0
				hijacked, err := frames.OpenHijackedConn(conn, http.Header{}, stalled, func() {
					if left++; !hijacked.ClientGone() {
						t.Error("ClientGone = false when the end of the client is told")
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := client.Write([]byte("whatever a client may still say")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if hijacked.ClientGone() || left > 0 {
					t.Error("the client counts as gone before it went")
				}
				go leave(client)
				synctest.Wait()
				if !hijacked.ClientGone() || left != 1 {
					t.Errorf("ClientGone = %v, told %d times, want true and once", hijacked.ClientGone(), left)
				}
				hijacked.Finish(true)
			})
		})
	}
}

// Nothing of a stream goes on behind its end.
func TestTheEndOfAHijackedConnIsAwaited(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, _ net.Conn) {
		hijacked.Finish(false)
		if !hijacked.ClientGone() {
			t.Error("the connection is still read after Finish")
		}
	})
}

func TestAHijackedConnThatIsAbortedSendsNothing(t *testing.T) {
	withHijacked(t, func(hijacked frames.Writer, client net.Conn) {
		hijacked.Abort()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("Read = %v, want EOF", err)
		}
		if err := hijacked.Send(frame("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Send = %v, want %v", err, io.ErrClosedPipe)
		}
		hijacked.Finish(true)
	})
}

// settingConn records how a connection is set.
type settingConn struct {
	net.Conn
	deadlines int
	linger    []int
}

func (s *settingConn) SetWriteDeadline(at time.Time) error {
	s.deadlines++
	return s.Conn.SetWriteDeadline(at)
}

// SetLinger is a method of net.TCPConn.
func (s *settingConn) SetLinger(sec int) error {
	s.linger = append(s.linger, sec)
	return nil
}

// The kernel would keep for ever what a client that is there does not read.
func TestWhatTheClientDoesNotTakeIsDiscarded(t *testing.T) {
	for name, test := range map[string]struct {
		whole, reads bool
		linger       []int
	}{
		"a whole stream that is read to its end": {whole: true, reads: true},
		"a whole stream whose end is not taken":  {whole: true, linger: []int{0}},
		"a stream that is broken off":            {reads: true, linger: []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, pipe := net.Pipe()
				defer client.Close()
				conn := &settingConn{Conn: pipe}
				go func() {
					_, _ = client.Read(make([]byte, 4<<10)) // the header
					if test.reads {
						_, _ = io.Copy(io.Discard, client)
					}
				}()
				hijacked, err := frames.OpenHijackedConn(conn, http.Header{}, stalled, ignore)
				if err != nil {
					t.Fatal(err)
				}
				hijacked.Finish(test.whole)
				if !slices.Equal(conn.linger, test.linger) {
					t.Errorf("SetLinger was called with %v, want %v", conn.linger, test.linger)
				}
			})
		})
	}
}

// To set a deadline costs more than a short write.
func TestFramesShareADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, pipe := net.Pipe()
		defer client.Close()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		conn := &settingConn{Conn: pipe}
		hijacked, err := frames.OpenHijackedConn(conn, http.Header{}, stalled, ignore)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if err := hijacked.Send(frame("x")); err != nil {
				t.Fatal(err)
			}
		}
		if conn.deadlines != 1 {
			t.Errorf("deadlines set for frames that follow each other at once = %d, want 1", conn.deadlines)
		}
		hijacked.Finish(true)
	})
}
