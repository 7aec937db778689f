package harness

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Event is one server-sent event, or a comment.
type Event struct {
	// ID is the id of this event, or of the latest one before it that had one.
	ID   string
	Type string // "message" if the stream does not name one
	Data string
	// Comment is the text of a comment, in which case only IsComment is set beside it.
	Comment   string
	IsComment bool
}

// Parser reads a stream of server-sent events as specified by the WHATWG, but also
// returns comments, which a browser drops.
type Parser struct {
	lines  *bufio.Reader
	begun  bool
	lastID string // of the last complete event
	// Retry is the latest reconnection time that the stream asked for, in milliseconds.
	Retry int
}

// NewParser returns a parser that reads from r. lastID is the last id that a
// returning client has; it may be empty.
func NewParser(r io.Reader, lastID string) *Parser {
	return &Parser{lines: bufio.NewReader(r), lastID: lastID}
}

// LastID returns what to send as Last-Event-ID after the stream has ended.
func (p *Parser) LastID() string { return p.lastID }

// Next returns the next event or comment. An incomplete event at the end of the
// stream is dropped.
func (p *Parser) Next() (Event, error) {
	event := Event{ID: p.lastID}
	var data []string
	for {
		line, err := p.line()
		if err != nil {
			return Event{}, err
		}
		if line == "" {
			p.lastID = event.ID
			if data == nil {
				event.Type = ""
				continue
			}
			if event.Type == "" {
				event.Type = "message"
			}
			event.Data = strings.Join(data, "\n")
			return event, nil
		}
		field, value, _ := strings.Cut(line, ":")
		if field == "" && data == nil && event.Type == "" && event.ID == p.lastID {
			return Event{Comment: strings.TrimPrefix(value, " "), IsComment: true}, nil
		}
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			event.Type = value
		case "data":
			data = append(data, value)
		case "id":
			if !strings.ContainsRune(value, 0) {
				event.ID = value
			}
		case "retry":
			if n, err := strconv.ParseUint(value, 10, 31); err == nil {
				p.Retry = int(n)
			}
		}
	}
}

// line returns the next line without its terminator: LF, CR, or CR LF.
func (p *Parser) line() (string, error) {
	if !p.begun {
		p.begun = true
		if mark, err := p.lines.Peek(3); err == nil && bytes.Equal(mark, []byte("\uFEFF")) {
			_, _ = p.lines.Discard(3)
		}
	}
	var line []byte
	for {
		b, err := p.lines.ReadByte()
		switch {
		case err != nil:
			return "", err
		case b == '\n':
			return string(line), nil
		case b == '\r':
			// Waiting for an LF that may follow could block for ever, so skipLF
			// drops it when it comes.
			p.lines = bufio.NewReader(&skipLF{p.lines, true})
			return string(line), nil
		}
		line = append(line, b)
	}
}

// skipLF drops an LF if it is the first byte that it reads.
type skipLF struct {
	*bufio.Reader
	armed bool
}

// Read implements io.Reader.
func (s *skipLF) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if s.armed && n > 0 {
		s.armed = false
		if b[0] == '\n' {
			copy(b, b[1:n])
			n--
		}
	}
	return n, err
}

// Stream is one open stream. Its methods must be called from one goroutine.
type Stream struct {
	*Parser
	Header http.Header
	// From is the address that answered, after redirects.
	From string

	body   io.ReadCloser
	cancel context.CancelFunc
}

// Stream opens a stream. lastID is sent as Last-Event-ID unless it is empty. The
// stream ends with ctx.
func (c *Client) Stream(ctx context.Context, path, lastID string) (*Stream, error) {
	headers := []Header{{"Accept", "text/event-stream"}}
	if lastID != "" {
		headers = append(headers, Header{"Last-Event-ID", lastID})
	}
	ctx, cancel := context.WithCancel(ctx)
	response, err := c.send(ctx, http.MethodGet, path, nil, headers)
	if err != nil {
		cancel()
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		content, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		cancel()
		return nil, fmt.Errorf("GET %s: %d: %s", path, response.StatusCode, content)
	}
	return &Stream{
		Parser: NewParser(response.Body, lastID),
		Header: response.Header,
		From:   response.Request.URL.Host,
		body:   response.Body,
		cancel: cancel,
	}, nil
}

// Event returns the next event, skipping comments.
func (s *Stream) Event() (Event, error) {
	for {
		event, err := s.Next()
		if err != nil || !event.IsComment {
			return event, err
		}
	}
}

// Close ends the stream.
func (s *Stream) Close() {
	s.cancel()
	_ = s.body.Close()
}

// StreamBytes returns the raw bytes of a stream after position, without comments, through
// the end of the event with the id until.
func (c *Client) StreamBytes(ctx context.Context, path string, position, until uint64) ([]byte, error) {
	stream, err := c.Stream(ctx, path, strconv.FormatUint(position, 10))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	last := []byte("id: " + strconv.FormatUint(until, 10) + "\n")
	lines := bufio.NewReader(stream.body)
	var tape, block []byte
	for ended := false; !ended; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("the stream of %s ended before revision %d: %w", stream.From, until, err)
		}
		block = append(block, line...)
		if len(line) > 1 {
			continue
		}
		if block[0] != ':' {
			tape = append(tape, block...)
			ended = bytes.HasPrefix(block, last) || bytes.Contains(block, append([]byte{'\n'}, last...))
		}
		block = block[:0]
	}
	return tape, nil
}
