package offline

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// notes is a slog.Handler for an operator at a terminal: it prints each warning on one line,
// and once. Safe for concurrent use, because backends warn from goroutines of their own.
type notes struct {
	out io.Writer

	mu   sync.Mutex
	said map[string]bool
}

func (n *notes) logger() *slog.Logger { return slog.New(n) }

// Enabled implements slog.Handler. It drops what is less than a warning.
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

// WithAttrs implements slog.Handler. It drops attributes such as the component.
func (n *notes) WithAttrs([]slog.Attr) slog.Handler { return n }

// WithGroup implements slog.Handler.
func (n *notes) WithGroup(string) slog.Handler { return n }
