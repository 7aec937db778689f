package codec

import "testing"

// Who adds a kind of entry must say in which format it came, and raise Format.
func TestEveryKindOfEntryHasItsFormat(t *testing.T) {
	covered := map[entryKind]bool{}
	for name, entry := range goldenEntries(t) {
		kind := kindOf(entry)
		covered[kind] = true
		if format := introducedIn[kind]; format < FirstFormat || format > Format {
			t.Errorf("format of %s, kind %d = %d, want 1 to %d, which this build reads", name, kind, format, Format)
		}
	}
	for kind := range introducedIn {
		if !covered[kind] {
			t.Errorf("no golden file has an entry of kind %d", kind)
		}
	}
}

// Builds before formats were announced read the kinds of the first format, so a cluster with
// such builds must never have to wait for a format to use them. Instances of past releases
// have told which of the others they read.
func TestTheFormatOfAnEntryDoesNotChange(t *testing.T) {
	later := map[entryKind]int{kindRestorePart: 2, kindRestoreCommit: 2, kindRestoreAbort: 2, kindGroup: 3}
	for name, entry := range goldenEntries(t) {
		want := FirstFormat
		if format, isLater := later[kindOf(entry)]; isLater {
			want = format
		}
		if got := FormatOf(entry); got != want {
			t.Errorf("format of %s = %d, want %d", name, got, want)
		}
	}
}
