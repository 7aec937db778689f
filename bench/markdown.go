package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The generated part of a document stands between these two lines.
const (
	begin = "<!-- make bench writes from here -->"
	end   = "<!-- to here -->"
)

// columns are the kinds, under the names used in the documents.
type columns []column

type column struct{ kind, title string }

// publish writes all results to docs/performance.md, and the quoted ones to the README.
func publish(repository, how string, results []result, c columns) error {
	var quoted []result
	for _, r := range results {
		if r.row.quoted {
			quoted = append(quoted, r)
		}
	}
	for _, document := range []struct{ path, text string }{
		{filepath.Join("docs", "performance.md"), how + "\n\n" + c.stages(results)},
		{"README.md", c.table(quoted, result.short)},
	} {
		if err := rewrite(filepath.Join(repository, document.path), document.text); err != nil {
			return err
		}
	}
	return nil
}

func rewrite(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rewritten, err := between(string(old), text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(rewritten), 0o644)
}

// between replaces what stands between the two marks in a document by text.
func between(document, text string) (string, error) {
	before, rest, found := strings.Cut(document, begin)
	if !found {
		return "", fmt.Errorf("there is no line %q", begin)
	}
	_, after, found := strings.Cut(rest, end)
	if !found {
		return "", fmt.Errorf("there is no line %q after %q", end, begin)
	}
	return before + begin + "\n\n" + strings.TrimSpace(text) + "\n\n" + end + after, nil
}

// stages returns one table for each stage.
func (c columns) stages(results []result) string {
	var b strings.Builder
	for len(results) > 0 {
		title := results[0].stage
		next := slices.IndexFunc(results, func(r result) bool { return r.stage != title })
		if next < 0 {
			next = len(results)
		}
		fmt.Fprintf(&b, "### %s\n\n%s\n", title, c.table(results[:next], result.cell))
		results = results[next:]
	}
	return b.String()
}

// table returns one table, without columns for kinds that have no results.
func (c columns) table(results []result, cell func(result, string) string) string {
	c = slices.DeleteFunc(slices.Clone(c), func(column column) bool {
		return !slices.ContainsFunc(results, func(r result) bool { return len(r.samples[column.kind]) > 0 })
	})
	rows := [][]string{{""}}
	for _, column := range c {
		rows[0] = append(rows[0], column.title)
	}
	for _, column := range c[1:] {
		rows[0] = append(rows[0], "× "+column.title)
	}
	rows = append(rows, slices.Repeat([]string{"---"}, len(rows[0])))
	for _, r := range results {
		row := []string{r.row.name}
		for _, column := range c {
			row = append(row, cell(r, column.kind))
		}
		for _, column := range c[1:] {
			row = append(row, r.ratio(column.kind))
		}
		rows = append(rows, row)
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString("|")
		for _, text := range row {
			b.WriteString(strings.TrimRight(" "+text, " ") + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}
