package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// median returns the median of all rounds, by each field. Of an even number it takes
// the worse of the middle two.
func (r result) median(kind string) (sample, bool) {
	all := r.samples[kind]
	if len(all) == 0 {
		return sample{}, false
	}
	middle := func(of func(sample) float64) float64 {
		values := make([]float64, len(all))
		for i, s := range all {
			values[i] = of(s)
		}
		slices.Sort(values)
		if r.row.unit.lowerIsBetter {
			return values[len(values)/2]
		}
		return values[(len(values)-1)/2]
	}
	return sample{
		value: middle(func(s sample) float64 { return s.value }),
		p50:   time.Duration(middle(func(s sample) float64 { return float64(s.p50) })),
		p99:   time.Duration(middle(func(s sample) float64 { return float64(s.p99) })),
	}, true
}

// worst returns the worst value of all rounds.
func (r result) worst(kind string) float64 {
	compare := func(a, b sample) int { return cmp.Compare(a.value, b.value) }
	if r.row.unit.lowerIsBetter {
		return slices.MaxFunc(r.samples[kind], compare).value
	}
	return slices.MinFunc(r.samples[kind], compare).value
}

// ratio returns how many times better nodesmetadata is than the other kind.
func (r result) ratio(other string) string {
	ours, ok := r.median("nodesmetadata")
	theirs, known := r.median(other)
	switch {
	case !ok || !known || ours.value == 0 || theirs.value == 0:
		return ""
	case r.row.unit.lowerIsBetter:
		return rounded(theirs.value / ours.value)
	}
	return rounded(ours.value / theirs.value)
}

// short returns the median value alone.
func (r result) short(kind string) string {
	s, ok := r.median(kind)
	if !ok {
		return ""
	}
	return r.row.unit.text(s.value)
}

// cell returns the text of a table cell for one kind.
func (r result) cell(kind string) string {
	s, ok := r.median(kind)
	if !ok {
		return ""
	}
	text := r.row.unit.text(s.value)
	switch {
	case s.p99 > 0:
		text += fmt.Sprintf(" (%s, %s)", span(s.p50), span(s.p99))
	case s.p50 > 0:
		text += fmt.Sprintf(" (p50 %s)", span(s.p50))
	case len(r.samples[kind]) > 1 && r.row.unit.lowerIsBetter:
		text += fmt.Sprintf(" (worst %s)", r.row.unit.text(r.worst(kind)))
	}
	return text
}

// line returns the result in one line, for progress output.
func (r result) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-40s", r.row.name)
	for _, kind := range []string{"nodesmetadata", "etcd", "bare"} {
		if cell := r.cell(kind); cell != "" {
			fmt.Fprintf(&b, "  %s %s", kind, cell)
		}
	}
	if ratio := r.ratio("etcd"); ratio != "" {
		fmt.Fprintf(&b, "  ×etcd %s", ratio)
	}
	if ratio := r.ratio("bare"); ratio != "" {
		fmt.Fprintf(&b, "  ×bare %s", ratio)
	}
	return b.String()
}
