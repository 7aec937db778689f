package codec

// Format is the version of what this build can read in the log and in snapshots: it grows
// with every kind of entry, and with every field of an entry or a snapshot that earlier
// builds can't read. Instances tell each other theirs.
const Format = 3

// FirstFormat is assumed of builds that do not tell theirs, and of instances that have not
// told it yet. Its entries can always be proposed.
const FirstFormat = 1

// introducedIn is the first format that has a kind of entry.
var introducedIn = map[entryKind]int{
	kindOpening:    1,
	kindRegister:   1,
	kindDeregister: 1,
	kindBatch:      1,
	kindExpire:     1,
	kindRevive:     1,
	kindPromotion:  1,

	kindRestorePart:   2,
	kindRestoreCommit: 2,
	kindRestoreAbort:  2,

	kindGroup: 3,
}

// FormatOf returns the format that an instance must read to apply entry. An instance that
// can't read it must stop: its state would diverge from the others'.
func FormatOf(entry any) int { return introducedIn[kindOf(entry)] }
