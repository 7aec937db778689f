package wal

import (
	"cmp"
	"slices"
)

// places says where the entries are, in the order of their indexes. To look one up,
// to append, and to remove from either end is cheap; raft does nothing else.
type places struct{ all []place }

type place struct {
	index   uint64
	segment *segment
	at      uint32
	size    uint32
}

// find gives the place of index in all, or the one where it would go.
func (p *places) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(p.all, index, func(in place, index uint64) int {
		return cmp.Compare(in.index, index)
	})
}

func (p *places) bounds() (first, last uint64) {
	if len(p.all) == 0 {
		return 0, 0
	}
	return p.all[0].index, p.all[len(p.all)-1].index
}

// put has an entry at a place, instead of where it was.
func (p *places) put(in place) {
	in.segment.live++
	if _, last := p.bounds(); in.index > last {
		p.all = append(p.all, in)
		return
	}
	at, found := p.find(in.index)
	if !found {
		p.all = slices.Insert(p.all, at, in)
		return
	}
	p.all[at].segment.live--
	p.all[at] = in
}

// remove forgets the entries between the bounds, which are included.
func (p *places) remove(from, to uint64) {
	low, _ := p.find(from)
	high, found := p.find(to)
	if found {
		high++
	}
	if low >= high {
		return
	}
	for _, gone := range p.all[low:high] {
		gone.segment.live--
	}
	switch {
	case high == len(p.all):
		p.all = p.all[:low]
	case low == 0:
		p.all = p.all[high:] // the memory before it comes back when there is need for more
	default:
		p.all = slices.Delete(p.all, low, high)
	}
}
