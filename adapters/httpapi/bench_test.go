package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// lean is a client that uses as little processor time as possible, so that a benchmark on a
// small machine measures the server.
type lean struct {
	conn net.Conn
	in   *bufio.Reader
}

func (s *service) lean(b *testing.B) *lean {
	b.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return &lean{conn, bufio.NewReaderSize(conn, 64<<10)}
}

// ask sends request and reads the answer, which must have a Content-Length.
func (c *lean) ask(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(status), "HTTP/1.1 20") {
		return fmt.Errorf("status line = %s", status)
	}
	length := 0
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if value, found := strings.CutPrefix(string(line), "Content-Length: "); found {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	_, err = c.in.Discard(length)
	return err
}

// load has n clients send requests at the same time.
func (s *service) load(b *testing.B, n int, request func(i int) string) {
	b.Helper()
	clients := make([]*lean, n)
	for i := range clients {
		clients[i] = s.lean(b)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var done sync.WaitGroup
	for i, client := range clients {
		share := b.N / n
		if i < b.N%n {
			share++
		}
		done.Go(func() {
			text := []byte(request(i))
			for range share {
				if err := client.ask(text); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	done.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

func BenchmarkGetNode(b *testing.B) {
	for _, size := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("of %d", size), func(b *testing.B) {
			s := start(b)
			s.fill(b, size)
			s.load(b, 64, func(int) string { return "GET /nodes/node000007 HTTP/1.1\r\nHost: h\r\n\r\n" })
		})
	}
}

func BenchmarkGetList(b *testing.B) {
	for _, size := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("of %d", size), func(b *testing.B) {
			s := start(b)
			s.fill(b, size)
			s.load(b, 64, func(int) string { return "GET /nodes HTTP/1.1\r\nHost: h\r\n\r\n" })
		})
	}
}

func BenchmarkPutNode(b *testing.B) {
	s := start(b)
	s.load(b, 64, func(i int) string {
		body := fmt.Sprintf(`{"address":"h%d:1","zone":"eu-1a","labels":{"rack":"r7"}}`, i)
		return fmt.Sprintf("PUT /nodes/n%d HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body)
	})
}

func benchmarkChange(b *testing.B) domain.Change {
	s := prepare(b)
	spec := domain.NodeSpec{ID: "node000001", Address: "10.0.0.1:11211", Zone: "eu-1a", Labels: map[string]string{"rack": "r7", "os": "linux"}}
	s.register(b, spec)
	spec.Zone = "eu-1b"
	return s.register(b, spec)
}

func BenchmarkAppendNode(b *testing.B) {
	change := benchmarkChange(b)
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		buffer = httpapi.AppendNode(buffer[:0], change.Node)
	}
}

func BenchmarkAppendEvent(b *testing.B) {
	change := benchmarkChange(b)
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		buffer = httpapi.AppendEvent(buffer[:0], &change)
	}
}

// BenchmarkFanOut measures one change on its way to 1000 streams: an operation ends when all
// of them have received it.
func BenchmarkFanOut(b *testing.B) {
	s := start(b)
	const streams = 1000
	arrived := make(chan struct{}, streams)
	for range streams {
		client := s.lean(b)
		if _, err := io.WriteString(client.conn, "GET /nodes/sse?since=0 HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		go func() {
			for {
				line, err := client.in.ReadSlice('\n')
				if err != nil {
					return
				}
				if strings.HasPrefix(string(line), "data: ") {
					arrived <- struct{}{}
				}
			}
		}()
	}
	eventually(b, "all streams are open", func() bool { return s.metric(b, "nodesmetadata_http_streams_open") == streams })
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		s.register(b, domain.NodeSpec{ID: "a", Address: "h:1", Weight: &i})
		for range streams {
			<-arrived
		}
	}
	b.ReportMetric(float64(streams*b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkSnapshot measures how long a single subscriber takes to receive the registry.
func BenchmarkSnapshot(b *testing.B) {
	s := start(b)
	const size = 10_000
	s.fill(b, size)
	last := fmt.Sprintf("id: %d\n", size)
	b.ReportAllocs()
	for b.Loop() {
		client := s.lean(b)
		if _, err := io.WriteString(client.conn, "GET /nodes/sse HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		for {
			line, err := client.in.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if string(line) == last {
				break
			}
		}
		client.conn.Close()
	}
}
