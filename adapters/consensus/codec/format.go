package codec

// Format is the version of what this build can read in the log and in snapshots: it grows
// with every kind of entry, and with every field of an entry or a snapshot that earlier
// builds can't read. Instances report theirs to each other.
const Format = 3

// FirstFormat is the version that every build can read. It is assumed of builds that do not
// report theirs, and of instances that have not reported it yet.
const FirstFormat = 1

// introducedIn has the first version of the format in which there is a kind of entry.
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

// FormatOf returns the version of the format that an instance must be able to read to apply
// entry. An instance that can't must stop, because its state would diverge from the others'.
func FormatOf(entry any) int { return introducedIn[kindOf(entry)] }
