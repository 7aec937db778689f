package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDecisionsAreListed holds the list of decisions equal to the files that there are,
// and to their first lines.
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
			t.Errorf("%s: want a name that begins with %s", name, number)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		title, numbered := strings.CutPrefix(first, fmt.Sprintf("# %d. ", i+1))
		if !numbered {
			t.Errorf("%s begins with %q, without its number", name, first)
		}
		there = append(there, fmt.Sprintf("%d. [%s](%s)", i+1, title, name))
	}
	if len(there) == 0 || !slices.Equal(listed, there) {
		t.Errorf("listed are\n%s\nand there are\n%s", strings.Join(listed, "\n"), strings.Join(there, "\n"))
	}
}
