package codec

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/test/golden"
)

// fullNode has every field set, those that the server sets included.
func fullNode() domain.CacheNode {
	return domain.CacheNode{
		ID:              "node0",
		Address:         "10.0.0.5:11211",
		Pool:            "sessions",
		Weight:          1_000_000,
		Zone:            "eu-1ä",
		Labels:          map[string]string{"rack": "r7", "empty": "", "a:b": "Grüße"},
		State:           domain.Draining,
		OnExpiry:        domain.RemoveOnExpiry,
		Slot:            3,
		CreatedRevision: 300,
		Revision:        1 << 40,
	}
}

// leasedNode has every field of a node whose lease has expired.
func leasedNode() domain.CacheNode {
	n := fullNode()
	n.State, n.TTLSeconds, n.OnExpiry, n.ExpiredFrom = domain.Down, 86_400, domain.DownOnExpiry, domain.Draining
	return n
}

// goldenEntries are entries of every kind, with everything that they can contain.
func goldenEntries(t domaintest.T) map[string]any {
	minimal := domaintest.Node(t, "a", "h:1")
	return map[string]any{
		"opening":                      Opening{ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN"},
		"opening-nameless":             Opening{},
		"promotion-wanted":             Promotion{ID: "n4"},
		"promotion-settled":            Promotion{ID: "n4", Settled: true},
		"restore-part":                 RestorePart{ID: "OMUGT7XVG3", Number: 3, Nodes: stagedNodes(t)},
		"restore-part-empty":           RestorePart{ID: "OMUGT7XVG3"},
		"restore-commit":               RestoreCommit{ID: "OMUGT7XVG3", Parts: 4},
		"restore-commit-if":            RestoreCommit{ID: "OMUGT7XVG3", Parts: 4, Expected: new(domain.Revision(17))},
		"restore-commit-if-zero":       RestoreCommit{ID: "OMUGT7XVG3", Parts: 1, Expected: new(domain.Revision(0))},
		"restore-abort":                RestoreAbort{ID: "OMUGT7XVG3"},
		"register-full":                domain.Register{Node: fullNode(), If: domain.Condition{Expect: domain.AtRevision, Revision: 1 << 40}},
		"register-minimal":             domain.Register{Node: minimal},
		"register-weightless":          domain.Register{Node: domain.CacheNode{ID: "a", Address: "h:1", Pool: "default", State: domain.Down, OnExpiry: domain.RemoveOnExpiry}},
		"register-if-absent":           domain.Register{Node: minimal, If: domain.Condition{Expect: domain.Absent}},
		"register-if-present":          domain.Register{Node: minimal, If: domain.Condition{Expect: domain.Present}},
		"register-if-at-revision":      domain.Register{Node: minimal, If: domain.Condition{Expect: domain.AtRevision, Revision: 17}},
		"register-if-at-revision-zero": domain.Register{Node: minimal, If: domain.Condition{Expect: domain.AtRevision}},
		"register-leased":              domain.Register{Node: leasedNode()},
		"batch": domain.Batch{Commands: []domain.Command{
			domain.Register{Node: fullNode(), If: domain.Condition{Expect: domain.Absent}},
			domain.Deregister{ID: "a", If: domain.Condition{Expect: domain.AtRevision, Revision: 17}},
			domain.Register{Node: minimal},
		}},
		"shared": CommandGroup{
			domain.Register{Node: fullNode(), If: domain.Condition{Expect: domain.Absent}},
			domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 17}}},
			domain.Batch{Commands: []domain.Command{domain.Deregister{ID: "b"}, domain.Register{Node: minimal}}},
			domain.Revive{ID: "a"},
			domain.Deregister{ID: "a", If: domain.Condition{Expect: domain.AtRevision, Revision: 17}},
		},
		"expire":                    domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 17}, {ID: "b", Revision: 1 << 40}}},
		"revive":                    domain.Revive{ID: "a"},
		"deregister":                domain.Deregister{ID: "a"},
		"deregister-if-absent":      domain.Deregister{ID: "a", If: domain.Condition{Expect: domain.Absent}},
		"deregister-if-present":     domain.Deregister{ID: "a", If: domain.Condition{Expect: domain.Present}},
		"deregister-if-at-revision": domain.Deregister{ID: "a", If: domain.Condition{Expect: domain.AtRevision, Revision: 17}},
	}
}

func TestGoldenEntries(t *testing.T) {
	for name, entry := range goldenEntries(t) {
		t.Run(name, func(t *testing.T) {
			data := golden.File(t, "entry-v1-"+name+".golden", EncodeEntry(entry))
			got, err := DecodeEntry(data)
			if err != nil {
				t.Fatal(err)
			}
			mustEqual(t, "the entry", got, entry)
		})
	}
}

// goldenCommands produce nodes and changes of every kind.
func goldenCommands(t domaintest.T) []domain.Command {
	a, b := domaintest.Node(t, "a", "h:1"), domaintest.Node(t, "b", "h:2")
	moved, heavier := domaintest.Node(t, "b", "h:3"), domaintest.Node(t, "a", "h:1")
	heavier.Weight = 7
	return []domain.Command{
		domain.Register{Node: fullNode()},
		domain.Register{Node: a},
		domain.Register{Node: b},
		domain.Register{Node: moved},
		domain.Deregister{ID: "a"},
		domain.Register{Node: heavier},
		domain.Deregister{ID: "b"},
	}
}

// leasedCommands produce changes that are caused by expiry.
func leasedCommands(t domaintest.T) []domain.Command {
	removed, down := domaintest.Node(t, "a", "h:1"), domaintest.Node(t, "b", "h:2")
	removed.TTLSeconds, down.TTLSeconds, down.OnExpiry = 30, 30, domain.DownOnExpiry
	return []domain.Command{
		domain.Batch{Commands: []domain.Command{domain.Register{Node: removed}, domain.Register{Node: down}}},
		domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 1}, {ID: "b", Revision: 2}}},
		domain.Revive{ID: "b"},
		domain.Expire{Nodes: []domain.NodeAt{{ID: "b", Revision: 5}}},
	}
}

// goldenImages are images with everything that a snapshot can contain.
func goldenImages(t domaintest.T) map[string]Snapshot {
	whole := domaintest.RegistryAfter(goldenCommands(t)...).View()

	// This registry has a trimmed history without needing ten thousand changes: only the
	// latest change of the nodes is left.
	var nodes []*domain.CacheNode
	for n := range whole.Nodes() {
		nodes = append(nodes, n)
	}
	trimmed, err := domain.RestoreRegistry(whole.Revision(), nodes, whole.History()[4:])
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Snapshot{
		"empty":     {},
		"leased":    {View: domaintest.RegistryAfter(leasedCommands(t)...).View(), ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 8, OpenTerm: 1},
		"promoting": {View: whole, ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 301, OpenTerm: 9, Promotions: []string{"n4", "n5"}},
		"restoring": {View: whole, ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 302, OpenTerm: 9, Promotions: []string{"n4"},
			Staged: &Staged{ID: "OMUGT7XVG3", Parts: 2, Nodes: stagedNodes(t)}},
		"replaced": {View: replacedRegistry(t).View(), ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 310, OpenTerm: 9},
		"opened":   {ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 2, OpenTerm: 1},
		"lived":    {View: whole, ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 300, OpenTerm: 9},
		"trimmed":  {View: trimmed.View(), ClusterID: "3QTYXOBGLQVZ5LWQH6VJ2TDJSN", Applied: 1 << 40, OpenTerm: 1 << 20},
	}
}

func TestGoldenSnapshots(t *testing.T) {
	for name, im := range goldenImages(t) {
		t.Run(name, func(t *testing.T) {
			data := golden.File(t, "snapshot-v1-"+name+".golden", snapshotOf(t, im))
			read := restoredFrom(t, data)
			mustEqualImage(t, read.Snapshot, im)
			if im.Staged != nil {
				mustEqual(t, "the nodes with which a staged restore goes on", read.StagedNodes.Nodes(), im.Staged.Nodes)
			} else if read.StagedNodes != nil {
				t.Errorf("staged nodes = %v, want none", read.StagedNodes.Nodes())
			}
		})
	}
}

func mustEqualImage(t domaintest.T, got, want Snapshot) {
	t.Helper()
	mustEqual(t, "the registry", domaintest.ContentsOf(got.View), domaintest.ContentsOf(want.View))
	got.View, want.View = domain.View{}, domain.View{}
	mustEqual(t, "the rest of the image", got, want)
}

// Files whose expected values no test has any more must stay readable too.
func TestEveryGoldenFileIsReadable(t *testing.T) {
	each := func(pattern string, read func([]byte) error) {
		paths, err := filepath.Glob(filepath.Join("testdata", pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := read(data); err != nil {
				t.Errorf("read of %s = %v, want success", path, err)
			}
		}
	}
	each("entry-v*.golden", func(data []byte) error {
		_, err := DecodeEntry(data)
		return err
	})
	each("snapshot-v*.golden", func(data []byte) error {
		_, err := ReadSnapshot(bytes.NewReader(data))
		return err
	})
}
