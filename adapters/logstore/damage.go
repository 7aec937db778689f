package logstore

import (
	"errors"
	"io/fs"
	"log/slog"
	"syscall"
)

// ErrDamaged is what Open and Inspect return, among others, for files that are not
// as they were written, so that what they held is lost. See Damage.
var ErrDamaged = errors.New("log store is damaged")

// HelpDamaged is what an operator can do. An older copy comes last: among others that
// went on, what was acknowledged since could be undone by it, and nobody would notice.
const HelpDamaged = "if there are others in its cluster, start the instance, which gets everything from them, or let it join anew with an empty directory; restore the directory from a copy only if it is alone"

// Damage gives an error with a text of its own that is ErrDamaged as well.
func Damage(text string) error { return &damage{text} }

// WarnOfTornEnd warns of the end of what was written to path, which is not whole, and
// which an instance would drop, from at on: whether there was a crash only an operator knows.
func WarnOfTornEnd(logger *slog.Logger, path string, at slog.Attr) {
	logger.Warn("the last write is not whole, and an instance drops it when it starts: right after a crash, "+
		"when nobody was told that it is done; if there was no crash, this is damage, and something acknowledged may be missing",
		"path", path, at)
}

// IsRefusal says whether err is the operating system's, which did not give what may well be
// sound: somebody may not read it, has too many files open, or has a broken disk. That
// something is not there is no refusal.
func IsRefusal(err error) bool {
	var number syscall.Errno
	return errors.As(err, &number) && !errors.Is(number, fs.ErrNotExist)
}

type damage struct{ text string }

func (d *damage) Error() string        { return d.text }
func (d *damage) Is(target error) bool { return target == ErrDamaged }
