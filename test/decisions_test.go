package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDecisionsAreListed checks that the list of decisions agrees with the files and
// with their first lines.
func TestDecisionsAreListed(t *testing.T) {
	const folder = "../docs/adr"
	index, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for line := range strings.Lines(string(index)) {
		if '0' <= line[0] && line[0] <= '9' {
			listed = append(listed, strings.TrimSpace(line))
		}
	}
	files, err := filepath.Glob(filepath.Join(folder, "0*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		if number := fmt.Sprintf("%04d-", i+1); !strings.HasPrefix(name, number) {
			t.Errorf("name of decision %d = %s, want the prefix %s", i+1, name, number)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		title, numbered := strings.CutPrefix(first, fmt.Sprintf("# %d. ", i+1))
		if !numbered {
			t.Errorf("first line of %s = %q, want the prefix %q", name, first, fmt.Sprintf("# %d. ", i+1))
		}
		there = append(there, fmt.Sprintf("%d. [%s](%s)", i+1, title, name))
	}
	if len(there) == 0 || !slices.Equal(listed, there) {
		t.Errorf("README.md lists\n%s\nwant\n%s", strings.Join(listed, "\n"), strings.Join(there, "\n"))
	}
}
