package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// block is the text between two blank lines of a stream.
type block struct {
	kind, id, data, retry string
	comment               string
	raw                   string
}

// reader reads the blocks of a stream as they come.
type reader struct {
	status int
	header http.Header
	blocks chan block
	err    error // why the stream broke off, or nil; valid once blocks is closed
	cancel context.CancelFunc
	late   *time.Timer // cancels the request when no block came within patience
}

// stream opens a stream, and closes it when the test ends.
func (s *service) stream(t testing.TB, path string, header ...string) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	late := time.AfterFunc(patience, cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	setHeader(request.Header, header)
	response, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{status: response.StatusCode, header: response.Header, blocks: make(chan block), cancel: cancel, late: late}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer response.Body.Close()
		defer close(r.blocks)
		r.err = r.read(ctx, response.Body)
	}()
	t.Cleanup(func() {
		late.Stop()
		cancel()
		<-finished
	})
	return r
}

func (r *reader) read(ctx context.Context, body io.Reader) error {
	lines := bufio.NewReader(body)
	var b block
	for {
		line, err := lines.ReadString('\n')
		switch {
		case errors.Is(err, io.EOF) && line == "" && b.raw == "":
			return nil
		case err != nil:
			return err
		}
		b.raw += line
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			b.kind = value
		case "id":
			b.id = value
		case "retry":
			b.retry = value
		case "data":
			if b.data != "" {
				return errors.New("a second line of data: " + b.raw)
			}
			b.data = value
		case "":
			if value != "" {
				b.comment = value
				continue
			}
			if b.comment == "" {
				r.late.Stop() // a block waits for the test
			}
			select {
			case r.blocks <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
			if b.comment == "" {
				r.late.Reset(patience)
			}
			b = block{}
		default:
			return errors.New("not a field: " + line)
		}
	}
}

// next returns the next block, or false when the stream has ended.
func (r *reader) next(t testing.TB) (block, bool) {
	t.Helper()
	b, more := <-r.blocks
	if strings.Contains(b.raw, "\r") {
		t.Errorf("block = %q, want no carriage return", b.raw)
	}
	if more && b.comment == "" && b.data == "" {
		t.Errorf("block = %q, want a comment or data", b.raw)
	}
	return b, more
}

// event returns the next block that is not a comment.
func (r *reader) event(t testing.TB) block {
	t.Helper()
	for {
		b, more := r.next(t)
		if !more {
			t.Fatalf("the stream ended: %v", r.err)
		}
		if b.comment == "" {
			return b
		}
	}
}

// farewell reads to the end of the stream and returns the last comment.
func (r *reader) farewell(t testing.TB) string {
	t.Helper()
	last := ""
	for {
		b, more := r.next(t)
		if !more {
			if r.err != nil {
				t.Errorf("the stream broke off: %v", r.err)
			}
			return last
		}
		last = b.comment
	}
}
