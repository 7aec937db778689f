package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

// runner measures a table. It must be used by one goroutine only.
type runner struct {
	scale
	kinds     []servers.Kind
	only      *regexp.Regexp
	directory string
	progress  io.Writer

	started int
	numbers atomic.Int64
}

// result is a row with its measurements: for each kind the samples of all rounds.
type result struct {
	stage   string
	row     row
	samples map[string][]sample
}

// run measures the selected rows. It continues after a failure, and returns all
// failures in the error.
func (r *runner) run(ctx context.Context, table []stage) ([]result, error) {
	var results []result
	var faults []error
	for _, s := range table {
		s.rows = slices.DeleteFunc(slices.Clone(s.rows), func(row row) bool { return !r.only.MatchString(row.name) })
		if len(s.rows) == 0 || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(r.progress, "\n%s\n", s.title)
		measured, err := r.stage(ctx, s)
		results = append(results, measured...)
		if err != nil {
			fmt.Fprintf(r.progress, "FAILED: %v\n", err)
			faults = append(faults, fmt.Errorf("%s: %w", s.title, err))
		}
	}
	return results, errors.Join(append(faults, ctx.Err())...)
}

func (r *runner) stage(ctx context.Context, s stage) ([]result, error) {
	kinds := map[string]*measurement{}
	defer func() {
		for _, m := range kinds {
			if m.cluster != nil {
				_ = m.cluster.Stop()
			}
		}
	}()
	for _, kind := range r.kinds {
		if !slices.ContainsFunc(s.rows, func(row row) bool { return row.measures(kind) }) {
			continue
		}
		m, err := r.open(s, kind)
		if m != nil {
			kinds[kind.Name()] = m
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.Name(), err)
		}
	}
	var results []result
	var faults []error
	for _, row := range s.rows {
		samples, err := r.row(ctx, row, kinds)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", row.name, err))
			fmt.Fprintf(r.progress, "FAILED: %s: %v\n", row.name, err)
			continue
		}
		results = append(results, result{stage: s.title, row: row, samples: samples})
		fmt.Fprintln(r.progress, results[len(results)-1].line())
	}
	return results, errors.Join(faults...)
}

func (r *runner) open(s stage, kind servers.Kind) (*measurement, error) {
	m := &measurement{scale: r.scale, kind: kind, directory: r.newDirectory, numbers: &r.numbers}
	if s.members == 0 {
		return m, nil
	}
	directory, err := r.newDirectory()
	if err != nil {
		return nil, err
	}
	if m.cluster, err = kind.Cluster(directory, s.members); err != nil {
		return nil, err
	}
	err = m.cluster.Start()
	if err == nil && s.prepare != nil {
		err = s.prepare(m)
	}
	return m, err
}

func (r *runner) newDirectory() (string, error) {
	r.started++
	path := filepath.Join(r.directory, strconv.Itoa(r.started))
	return path, os.MkdirAll(path, 0o700)
}

func (row row) measures(kind servers.Kind) bool {
	return row.kinds == nil || slices.Contains(row.kinds, kind.Name())
}

func (r *runner) row(ctx context.Context, row row, kinds map[string]*measurement) (map[string][]sample, error) {
	samples := map[string][]sample{}
	for range cmp.Or(row.rounds, r.rounds) {
		for _, kind := range r.kinds {
			m := kinds[kind.Name()]
			if !row.measures(kind) || m == nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			got, err := m.once(row)
			if errors.Is(err, servers.ErrUnsupported) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.Name(), err)
			}
			samples[kind.Name()] = append(samples[kind.Name()], got)
		}
	}
	return samples, nil
}

func (m *measurement) once(row row) (sample, error) {
	if m.cluster != nil {
		if err := m.hold(row.nodes); err != nil {
			return sample{}, err
		}
	}
	return row.measure(m)
}

// hold makes the registry hold at least the given number of nodes, and finds the leader.
func (m *measurement) hold(nodes int) (err error) {
	if nodes > m.nodes {
		if err := m.cluster.Grow(nodes); err != nil {
			return err
		}
		m.nodes = nodes
	}
	m.leader, err = m.cluster.Leader()
	return err
}
