package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger returns a logger for raft that writes to logger. Once closing returns true, all
// records are at debug level, because raft takes the end of its own connections and
// listener for errors. Records about a connection that this instance itself has closed
// are always at debug level.
func raftLogger(logger *slog.Logger, closing func() bool) hclog.Logger {
	intercept := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: lowestLevel(logger)})
	intercept.RegisterSink(&sink{logger: logger.With("component", "raft"), closing: closing})
	return intercept
}

var levels = []struct {
	theirs hclog.Level
	ours   slog.Level
}{
	{hclog.Debug, slog.LevelDebug},
	{hclog.Info, slog.LevelInfo},
	{hclog.Warn, slog.LevelWarn},
	{hclog.Error, slog.LevelError},
}

// lowestLevel returns the lowest level that logger has enabled, so that raft does not build
// records that nobody reads.
func lowestLevel(logger *slog.Logger) hclog.Level {
	for _, level := range levels {
		if logger.Enabled(context.Background(), level.ours) {
			return level.theirs
		}
	}
	return hclog.Off
}

// sink passes raft's records on to logger. It implements hclog.SinkAdapter.
type sink struct {
	logger  *slog.Logger
	closing func() bool
}

// Accept implements hclog.SinkAdapter.
func (s *sink) Accept(_ string, level hclog.Level, message string, args ...any) {
	ours := slog.LevelDebug
	for _, l := range levels {
		if l.theirs == level && !s.closing() && !slices.ContainsFunc(args, ofOwnClosing) {
			ours = l.ours
		}
	}
	if !s.logger.Enabled(context.Background(), ours) {
		return
	}
	for i, arg := range args {
		args[i] = plain(arg)
	}
	s.logger.Log(context.Background(), ours, message, args...)
}

// ofOwnClosing says whether arg is the error of using a connection that this instance has
// closed. The error of a closed listener does not count.
func ofOwnClosing(arg any) bool {
	err, is := arg.(error)
	if !is || !errors.Is(err, net.ErrClosed) {
		return false
	}
	use, is := errors.AsType[*net.OpError](err)
	return is && (use.Op == "read" || use.Op == "write")
}

// plain returns arg in a form that reads the same in every log format. Raft logs its own
// structs, which would be empty in JSON.
func plain(arg any) any {
	switch arg := arg.(type) {
	case hclog.Format:
		if len(arg) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(arg[0]), arg[1:]...)
	case error, time.Duration:
		return arg
	}
	switch reflect.ValueOf(arg).Kind() {
	case reflect.Pointer, reflect.Struct, reflect.Slice, reflect.Map:
		return fmt.Sprint(arg)
	}
	return arg
}
