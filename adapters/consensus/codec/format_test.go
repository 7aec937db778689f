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

// Builds before formats were announced read these kinds, so a cluster with such builds must
// never have to wait for a format to use them.
func TestTheFirstFormatDoesNotChange(t *testing.T) {
	for kind := kindOpening; kind <= kindPromotion; kind++ {
		if introducedIn[kind] != FirstFormat {
			t.Errorf("format of kind %d = %d, want the first format", kind, introducedIn[kind])
		}
	}
}
