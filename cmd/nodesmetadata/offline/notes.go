package offline

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// notes is a log for an operator at a terminal: a line for each warning, once. Safe for
// concurrent use, as backends warn from goroutines of their own.
type notes struct {
	out io.Writer

	mu   sync.Mutex
	said map[string]bool
}

func (n *notes) logger() *slog.Logger { return slog.New(n) }

// Enabled implements slog.Handler. What a backend or raft does is of no interest.
func (n *notes) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements slog.Handler.
func (n *notes) Handle(_ context.Context, record slog.Record) error {
	var line strings.Builder
	line.WriteString(record.Message)
	record.Attrs(func(attr slog.Attr) bool {
		_, _ = fmt.Fprintf(&line, " %s=%v", attr.Key, attr.Value)
		return true
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.said[line.String()] {
		return nil
	}
	if n.said == nil {
		n.said = map[string]bool{}
	}
	n.said[line.String()] = true
	_, err := fmt.Fprintln(n.out, "nodesmetadata: warning:", line.String())
	return err
}

// WithAttrs implements slog.Handler. Which part of the program warns is not told.
func (n *notes) WithAttrs([]slog.Attr) slog.Handler { return n }

// WithGroup implements slog.Handler.
func (n *notes) WithGroup(string) slog.Handler { return n }
