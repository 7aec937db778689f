package badger

import (
	"testing"

	"pgregory.net/rapid"
)

func TestIndexesAreLikeASet(t *testing.T) {
	const highest = 20
	rapid.Check(t, func(t *rapid.T) {
		var got indexes
		want := map[uint64]bool{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			from := rapid.Uint64Range(1, highest).Draw(t, "from")
			to := rapid.Uint64Range(from, highest).Draw(t, "to")
			add := rapid.Bool().Draw(t, "add")
			if add {
				got = got.with(indexRange{from, to})
			} else {
				got = got.without(from, to)
			}
			for index := from; index <= to; index++ {
				want[index] = add
			}
			var first, last, count uint64
			for index := uint64(1); index <= highest; index++ {
				if got.has(index) != want[index] {
					t.Fatalf("%v: has(%d) = %v", got, index, !want[index])
				}
				if !want[index] {
					continue
				}
				if first == 0 {
					first = index
				}
				last = index
				if index >= from && index <= to {
					count++
				}
			}
			if got.first() != first || got.last() != last || got.count(from, to) != count {
				t.Fatalf("%v: first, last and count(%d, %d) = %d, %d, %d, want %d, %d, %d",
					got, from, to, got.first(), got.last(), got.count(from, to), first, last, count)
			}
			for at := 1; at < len(got); at++ {
				if got[at-1].last+1 >= got[at].first {
					t.Fatalf("%v: ranges %d and %d touch", got, at-1, at)
				}
			}
		}
	})
}
