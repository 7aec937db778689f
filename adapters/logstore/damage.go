package logstore

import (
	"errors"
	"io/fs"
	"log/slog"
	"syscall"
)

// ErrDamaged is what Open, Inspect and others return for files that are not as they were
// written, so that something is lost. See Damage.
var ErrDamaged = errors.New("log store is damaged")

// HelpDamaged is what an operator can do. An older copy comes last: in a cluster that went
// on, it could silently undo what was acknowledged since.
const HelpDamaged = "if there are others in its cluster, start the instance, which gets everything from them, or let it join anew with an empty directory; restore the directory from a copy only if it is alone"

// Damage returns an error with this text that matches ErrDamaged.
func Damage(text string) error { return &damage{text} }

// WarnOfTornEnd warns that the last write to path is incomplete, from at on, and that an
// instance would drop it. Only an operator knows whether there was a crash.
func WarnOfTornEnd(logger *slog.Logger, path string, at slog.Attr) {
	logger.Warn("the last write is not whole, and an instance drops it when it starts: right after a crash, "+
		"when nobody was told that it is done; if there was no crash, this is damage, and something acknowledged may be missing",
		"path", path, at)
}

// IsRefusal reports whether err comes from the operating system, which could not read what
// may well be sound: for lack of permission, too many open files, or a broken disk. That a
// file does not exist is no refusal.
func IsRefusal(err error) bool {
	var number syscall.Errno
	return errors.As(err, &number) && !errors.Is(number, fs.ErrNotExist)
}

type damage struct{ text string }

func (d *damage) Error() string        { return d.text }
func (d *damage) Is(target error) bool { return target == ErrDamaged }
