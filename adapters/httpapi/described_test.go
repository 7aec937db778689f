package httpapi_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// described is a transport that checks everything that goes through it against the
// description of the API: every response, every event of a stream, and every request that
// was accepted.
type described struct {
	t           testing.TB
	description *description
	next        http.RoundTripper
}

// asDescribed adds the checks to next, except in a benchmark.
func asDescribed(t testing.TB, next http.RoundTripper) http.RoundTripper {
	if _, measured := t.(*testing.B); measured {
		return next
	}
	return &described{t, describe(t), next}
}

// undescribed turns the checks off from now on.
func (s *service) undescribed() {
	if d, is := s.client.Transport.(*described); is {
		s.client.Transport = d.next
	}
}

// CloseIdleConnections implements a method that http.Client looks for.
func (d *described) CloseIdleConnections() {
	if closer, ok := d.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (d *described) RoundTrip(request *http.Request) (*http.Response, error) {
	sent, content := copyBody(request)
	response, err := d.next.RoundTrip(sent)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(response.Header.Get("Content-Type"), eventStream) {
		d.exchange(request, content, response, nil)
		response.Body = &describedStream{ReadCloser: response.Body, described: d, path: request.URL.EscapedPath()}
		return response, nil
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
	if err == nil {
		d.exchange(request, content, response, body)
	}
	return response, nil
}

func (d *described) exchange(request *http.Request, content func() []byte, response *http.Response, body []byte) {
	if err := d.description.checkResponse(request, response, body); err != nil {
		d.t.Errorf("%s %s: the response %d %.500s does not match the description:\n%v",
			request.Method, request.URL.RequestURI(), response.StatusCode, body, err)
	}
	// A request that was refused or redirected may be anything.
	if response.StatusCode >= 300 && response.StatusCode != http.StatusNotModified {
		return
	}
	sent := content()
	if err := d.description.checkRequest(request, sent); err != nil {
		d.t.Errorf("%s %s: the request was answered with %d, but does not match the description:\n%v\nbody: %.500s",
			request.Method, request.URL.RequestURI(), response.StatusCode, err, sent)
	}
}

// failing is a reader that returns err, or io.EOF if err is nil.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// copied is a body that keeps a copy of what was read of it. The lock is there because the
// transport may go on reading after the response has come.
type copied struct {
	io.ReadCloser
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *copied) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.Write(b[:n])
	return n, err
}

// copyBody returns the request to send instead of request, and content, which returns the
// body that was sent.
func copyBody(request *http.Request) (sent *http.Request, content func() []byte) {
	switch {
	case request.Body == nil || request.Body == http.NoBody:
		return request, func() []byte { return nil }
	case request.GetBody != nil:
		return request, func() []byte {
			// This body is a reader over memory, so it does not fail.
			again, _ := request.GetBody()
			text, _ := io.ReadAll(again)
			return text
		}
	}
	body := &copied{ReadCloser: request.Body}
	sent = request.Clone(request.Context())
	sent.Body = body
	return sent, func() []byte {
		body.mu.Lock()
		defer body.mu.Unlock()
		return bytes.Clone(body.text.Bytes())
	}
}

// describedStream checks the events that are read from it against the description.
type describedStream struct {
	io.ReadCloser
	*described
	path string
	line []byte // the part of the current line that was read
	kind string // of the current event
}

func (s *describedStream) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	s.line = append(s.line, b[:n]...)
	for {
		line, rest, whole := bytes.Cut(s.line, []byte("\n"))
		if !whole {
			return n, err
		}
		s.take(string(line))
		s.line = rest
	}
}

func (s *describedStream) take(line string) {
	name, value, _ := strings.Cut(line, ": ")
	switch name {
	case "event":
		s.kind = value
	case "data":
		if err := s.description.checkEvent(s.path, s.kind, value); err != nil {
			s.t.Errorf("%s: the event %s %.500s does not match the description:\n%v", s.path, s.kind, value, err)
		}
		s.kind = ""
	}
}
