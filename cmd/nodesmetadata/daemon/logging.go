package daemon

import (
	"io"
	"log/slog"

	"go.uber.org/fx/fxevent"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

func newLogger(c config.Config, logs *logWriter) (*slog.Logger, error) {
	handler, err := newHandler(c, logs)
	return slog.New(handler), err
}

// newHandler writes to logs, one record at a time, from any goroutine.
func newHandler(c config.Config, logs io.Writer) (slog.Handler, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return slog.DiscardHandler, err
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(logs, options)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(logs, options)
	}
	// Logs of several instances end up in one place.
	return handler.WithAttrs([]slog.Attr{slog.String("raft_id", c.RaftID)}), nil
}

// newFxLogger logs what fx does at debug level, its errors too: these are also returned,
// and logged where they are handled.
func newFxLogger(log *slog.Logger) fxevent.Logger {
	logger := &fxevent.SlogLogger{Logger: log.With("component", "fx")}
	logger.UseLogLevel(slog.LevelDebug)
	logger.UseErrorLevel(slog.LevelDebug)
	return logger
}
