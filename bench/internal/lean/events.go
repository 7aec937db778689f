package lean

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Events reads the ids of server-sent events, and keeps the last comment, which
// says why a stream ends.
type Events struct {
	reader  *bufio.Reader
	comment []byte
}

// NewEvents returns a reader of the events in stream.
func NewEvents(stream io.Reader) *Events {
	if buffered, ok := stream.(*bufio.Reader); ok {
		return &Events{reader: buffered}
	}
	return &Events{reader: bufio.NewReader(stream)}
}

// Event is an event with an id.
type Event struct {
	ID       int64
	Snapshot bool
}

var (
	id       = []byte("id: ")
	snapshot = []byte("event: snapshot")
)

// Next blocks until there is an event with an id.
func (e *Events) Next() (Event, error) {
	var event Event
	numbered := false
	for {
		line, err := e.reader.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = e.skipLine()
			line = []byte("-")
		}
		if err != nil {
			return Event{}, fmt.Errorf("%w, after the comment %q", err, e.comment)
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(line) == 0 && numbered:
			return event, nil
		case len(line) == 0:
			event = Event{}
		case bytes.HasPrefix(line, id):
			if event.ID, err = number(line[len(id):]); err != nil {
				return Event{}, err
			}
			numbered = true
		case bytes.Equal(line, snapshot):
			event.Snapshot = true
		case line[0] == ':':
			e.comment = append(e.comment[:0], line...)
		}
	}
}

func (e *Events) skipLine() error {
	for {
		if _, err := e.reader.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}
