package logstore

import "errors"

// ErrDamaged is what Open and Inspect return, among others, for files that are not
// as they were written, so that what they held is lost. See Damage.
var ErrDamaged = errors.New("log store is damaged")

// HelpDamaged is what an operator can do. An older copy comes last: among others that
// went on, what was acknowledged since could be undone by it, and nobody would notice.
const HelpDamaged = "if there are others in its cluster, start the instance, which gets everything from them, or let it join anew with an empty directory; restore the directory from a copy only if it is alone"

// Damage gives an error with a text of its own that is ErrDamaged as well.
func Damage(text string) error { return &damage{text} }

type damage struct{ text string }

func (d *damage) Error() string        { return d.text }
func (d *damage) Is(target error) bool { return target == ErrDamaged }
