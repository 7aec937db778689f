package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
)

// tree is what a file has: the page that lists the buckets, the top page of the log, its
// first branch page, and of the leaves below that one in the middle, and the last. Their
// elements are as in pages.go.
type tree struct{ root, top, branch, leaf, last part }

// part is the rest of a file from some place.
type part []byte

func (p part) u32(at int) *[4]byte { return (*[4]byte)(p[at:]) }
func (p part) u64(at int) *[8]byte { return (*[8]byte)(p[at:]) }

func (p part) element(at int) part { return p[16+16*at:] }

// key returns the key of an element, whose position and size it is given.
func (p part) key(position, size *[4]byte) []byte {
	return p[binary.NativeEndian.Uint32(position[:]):][:binary.NativeEndian.Uint32(size[:])]
}

func (p part) leafKey(at int) []byte {
	element := p.element(at)
	return element.key(element.u32(4), element.u32(8))
}

func (p part) branchKey(at int) []byte {
	element := p.element(at)
	return element.key(element.u32(0), element.u32(4))
}

func treeIn(raw []byte) tree {
	const page = 4096
	at := func(id *[8]byte) part { return part(raw[binary.NativeEndian.Uint64(id[:])*page:]) }
	meta := part(raw)
	if later := part(raw[page:]); bytes.Compare(later.u64(16 + 48)[:1], meta.u64(16 + 48)[:1]) > 0 {
		meta = later
	}
	root := at(meta.u64(16 + 16))
	logs := root.element(1) // the other one is conf
	value := part(logs[binary.NativeEndian.Uint32(logs.u32(4)[:]):][len("logs"):])
	top := at(value.u64(0))
	branch := at(top.element(0).u64(8))
	last := int(binary.NativeEndian.Uint16(branch[10:])) - 1
	return tree{root: root, top: top, branch: branch, leaf: at(branch.element(3).u64(8)), last: at(branch.element(last).u64(8))}
}

// Over some of these bbolt would end the process, and with others lose sight of entries.
func TestEveryFaultOfAPageIsFound(t *testing.T) {
	intact := written(t)
	set32 := func(field *[4]byte, value uint32) { binary.NativeEndian.PutUint32(field[:], value) }
	set64 := func(field *[8]byte, value uint64) { binary.NativeEndian.PutUint64(field[:], value) }
	swap := func(a, b []byte) {
		first := bytes.Clone(a)
		copy(a, b)
		copy(b, first)
	}
	tests := map[string]struct {
		damage func(tree)
		want   string
	}{
		"a bucket of another name":      {func(t tree) { copy(t.root.leafKey(1), "logz") }, `"logz" is no bucket of a log store`},
		"a bucket that is none":         {func(t tree) { set32(t.root.element(1).u32(0), 0) }, `"logs" is no bucket of a log store`},
		"a bucket without its page":     {func(t tree) { set32(t.root.element(1).u32(12), 15) }, `bucket "logs" is cut off`},
		"a small bucket without a page": {func(t tree) { set32(t.root.element(0).u32(12), 16) }, `inside of bucket conf is cut off`},
		"a key that is no index":        {func(t tree) { set32(t.leaf.element(1).u32(8), 9) }, `is no key of bucket "logs"`},
		"a bucket in the log":           {func(t tree) { set32(t.leaf.element(1).u32(0), 1) }, `is no key of bucket "logs"`},
		"a page of another number":      {func(t tree) { set64(t.leaf.u64(0), 5) }, "says that it is 5"},
		"a page that never ends":        {func(t tree) { set32(t.leaf.u32(12), 1<<31) }, "runs over 2147483649 pages"},
		"a page of no kind":             {func(t tree) { t.leaf[8] = 16 }, "is of kind 16"},
		"a branch page without any":     {func(t tree) { t.branch[10], t.branch[11] = 0, 0 }, "is of kind 1 and has 0 elements"},
		"more elements than fit":        {func(t tree) { t.leaf[11] = 0xff }, "has no room for"},
		"a page in two places":          {func(t tree) { copy(t.branch.element(4)[8:], t.branch.element(3)[8:16]) }, "is in two places"},
		"a meta page in the log":        {func(t tree) { set64(t.branch.element(3).u64(8), 1) }, "page 1 is not one of 2 to"},
		"a page that there is not":      {func(t tree) { set64(t.branch.element(3).u64(8), 1<<40) }, "is not one of 2 to"},
		"a leaf that is too long":       {func(t tree) { set32(t.leaf.element(1).u32(12), 1<<16) }, "element 1 reaches beyond it"},
		"a key beyond a branch page":    {func(t tree) { set32(t.branch.element(1).u32(0), 1<<16) }, "element 1 reaches beyond it"},
		"no key":                        {func(t tree) { set32(t.leaf.element(0).u32(8), 0) }, "key 0 is out of order"},
		"keys that changed places":      {func(t tree) { swap(t.leaf.leafKey(1), t.leaf.leafKey(2)) }, "key 2 is out of order"},
		"a key twice":                   {func(t tree) { copy(t.leaf.leafKey(2), t.leaf.leafKey(1)) }, "key 2 is out of order"},
		"branches that changed places":  {func(t tree) { swap(t.branch.branchKey(1), t.branch.branchKey(2)) }, "key 2 is out of order"},
		"a key before its branch":       {func(t tree) { clear(t.leaf.leafKey(0)) }, "key 0 is out of order"},
		"a key of the next branch page": {func(t tree) { copy(t.top.branchKey(1), t.last.leafKey(1)) }, "key 1 is out of order"},
		"a key of the next branch":      {func(t tree) { copy(t.branch.branchKey(4), t.leaf.leafKey(1)) }, "key 1 is out of order"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			raw := bytes.Clone(intact)
			test.damage(treeIn(raw))
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "log.bolt"), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			store, err := bolt.Open(dir, nil)
			if err == nil {
				_ = store.Close()
			}
			if !errors.Is(err, bolt.ErrDamaged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: %v, want %q", err, test.want)
			}
		})
	}
}
