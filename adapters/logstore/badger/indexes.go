package badger

import "slices"

// indexes are the indexes of a log's entries, as ranges in ascending order with gaps between
// them. A log has more than one range only if raft has installed a snapshot. A value of this
// type is immutable.
type indexes []indexRange

// indexRange is the indexes from first to last, both included.
type indexRange struct{ first, last uint64 }

// first returns the lowest index, 0 if there is none.
func (x indexes) first() uint64 {
	if len(x) == 0 {
		return 0
	}
	return x[0].first
}

// last returns the highest index, 0 if there is none.
func (x indexes) last() uint64 {
	if len(x) == 0 {
		return 0
	}
	return x[len(x)-1].last
}

// count returns how many of the indexes lie between from and to, both included.
func (x indexes) count(from, to uint64) (count uint64) {
	for _, r := range x {
		if low, high := max(r.first, from), min(r.last, to); low <= high {
			count += high - low + 1
		}
	}
	return count
}

func (x indexes) has(index uint64) bool { return x.count(index, index) > 0 }

// appended returns ranges with index added to the end. It may modify ranges.
func appended(ranges []indexRange, index uint64) []indexRange {
	if end := len(ranges) - 1; end >= 0 && ranges[end].last+1 == index {
		ranges[end].last = index
		return ranges
	}
	return append(ranges, indexRange{index, index})
}

// with returns the indexes together with those of added.
func (x indexes) with(added indexRange) indexes {
	var below, above indexes
	for _, r := range x {
		switch {
		case r.last < added.first-1:
			below = append(below, r)
		case r.first-1 > added.last:
			above = append(above, r)
		default:
			added = indexRange{min(r.first, added.first), max(r.last, added.last)}
		}
	}
	return slices.Concat(below, indexes{added}, above)
}

// without returns the indexes except those between from and to, both included.
func (x indexes) without(from, to uint64) indexes {
	var left indexes
	for _, r := range x {
		if r.first < from {
			left = append(left, indexRange{r.first, min(r.last, from-1)})
		}
		if r.last > to {
			left = append(left, indexRange{max(r.first, to+1), r.last})
		}
	}
	return left
}
