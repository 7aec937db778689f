package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

func TestARegistryComesBackFromItsSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		commands := domaintest.CrossingCommands().Draw(t, "commands")
		at := rapid.IntRange(0, len(commands)).Draw(t, "snapshot after")
		original := domaintest.RegistryAfter(commands[:at]...)
		mustGoOnAlike(t, original, commands[at:])
	})
}

// mustGoOnAlike restores a registry from its snapshot, and applies the rest to both.
func mustGoOnAlike(t domaintest.T, original *domain.Registry, rest []domain.Command) {
	t.Helper()
	im := imageOf(original)
	snapshot := snapshotOf(t, im)
	read := restoredFrom(t, snapshot)
	mustEqualImage(t, read.Snapshot, im)
	if again := snapshotOf(t, imageOf(read.Registry)); !bytes.Equal(again, snapshot) {
		t.Fatalf("snapshot of the restored registry:\n got %x\nwant %x", again, snapshot)
	}
	for i, cmd := range rest {
		got := domaintest.AnswerOf(read.Registry.Apply(cmd))
		want := domaintest.AnswerOf(original.Apply(cmd))
		mustEqual(t, fmt.Sprintf("the answer to command %d after the snapshot", i), got, want)
	}
	if !bytes.Equal(snapshotOf(t, imageOf(read.Registry)), snapshotOf(t, imageOf(original))) {
		t.Fatal("the snapshots of the two registries differ at the end")
	}
}

// registryWithForgotten returns a registry that has made this many changes more than its
// history holds. Some nodes and previous nodes were made by forgotten changes.
func registryWithForgotten(t domaintest.T, forgotten int) *domain.Registry {
	r := domain.NewRegistry()
	apply := func(cmd domain.Command) {
		if _, err := r.Apply(cmd); err != nil {
			t.Fatal(err)
		}
	}
	const nodes = 100
	named := func(i, weight int) domain.Register {
		n := domaintest.Node(t, fmt.Sprintf("n%02d", i), fmt.Sprintf("h:%d", i+1))
		n.Weight = weight
		return domain.Register{Node: n}
	}
	for i := range nodes {
		apply(named(i, 1))
	}
	// The last node keeps changing, the one before it is changed late, and the one before
	// that is removed late.
	for int(r.View().Revision()) < domain.HistoryLength+forgotten-2 {
		apply(named(nodes-1, 2+int(r.View().Revision())%2))
	}
	apply(named(nodes-2, 9))
	apply(domain.Deregister{ID: named(nodes-3, 1).Node.ID})
	return r
}

func TestATrimmedHistoryComesBackFromItsSnapshot(t *testing.T) {
	for _, forgotten := range []int{0, 1, 100, 150, 2500} {
		t.Run(fmt.Sprintf("%d changes are forgotten", forgotten), func(t *testing.T) {
			r := registryWithForgotten(t, forgotten)
			if kept := len(r.View().History()); kept != domain.HistoryLength {
				t.Fatalf("changes in the history = %d, want %d", kept, domain.HistoryLength)
			}
			mustGoOnAlike(t, r, []domain.Command{
				domain.Deregister{ID: "n00"},
				domain.Register{Node: domaintest.Node(t, "new", "h:1")},
				domain.Register{Node: domaintest.Node(t, "n01", "h:1"), If: domain.Condition{Expect: domain.AtRevision, Revision: 2}},
				domain.Register{Node: domaintest.Node(t, "n01", "h:1000"), If: domain.Condition{Expect: domain.AtRevision, Revision: 2}},
			})
		})
	}
}

// A node that is in the registry, in the change that made it, and in the next change as the
// previous node, is kept in memory once, before and after a restore.
func TestARestoredRegistrySharesItsNodesWithItsHistory(t *testing.T) {
	r := domaintest.RegistryAfter(goldenCommands(t)...)
	restored := restoredFrom(t, snapshotOf(t, imageOf(r))).View
	for _, c := range restored.History() {
		if c.Effect == domain.Removed && c.Node != c.Previous {
			t.Errorf("revision %d: the removed node is in memory twice", c.Revision)
		}
		if c.Previous != nil && c.Previous != restored.History()[c.Previous.Revision-1].Node {
			t.Errorf("revision %d: the previous node is a copy", c.Revision)
		}
	}
	for n := range restored.Nodes() {
		if n != restored.History()[n.Revision-1].Node {
			t.Errorf("node %q is a copy of the node in its last change", n.ID)
		}
	}
}

func TestADamagedSnapshotIsAnError(t *testing.T) {
	for name, im := range goldenImages(t) {
		t.Run(name, func(t *testing.T) {
			snapshot := snapshotOf(t, im)
			eachDamage(t, snapshot, func(t *testing.T, damaged []byte) {
				if got, err := ReadSnapshot(bytes.NewReader(damaged)); err == nil {
					t.Errorf("ReadSnapshot(%x) = %+v, want an error", damaged, domaintest.ContentsOf(got.View))
				} else if !strings.HasPrefix(err.Error(), "snapshot") {
					t.Errorf("ReadSnapshot = %v, want an error that begins with snapshot", err)
				}
			})
			for n := range snapshot {
				if _, err := ReadSnapshot(bytes.NewReader(snapshot[:n])); !errors.Is(err, errTruncated) {
					t.Errorf("ReadSnapshot of the first %d bytes = %v, want errTruncated", n, err)
				}
			}
			if _, err := ReadSnapshot(bytes.NewReader(append(snapshot, 0))); err == nil {
				t.Error("ReadSnapshot with a byte behind the end = nil, want an error")
			}
			if _, err := ReadSnapshot(io.MultiReader(bytes.NewReader(snapshot), failing{})); !errors.Is(err, errDisk) {
				t.Errorf("ReadSnapshot with an unreadable byte behind the end = %v, want the error of the disk", err)
			}
		})
	}
}

func TestASnapshotThatCanNotBeReadOrWrittenSaysWhy(t *testing.T) {
	if _, err := ReadSnapshot(failing{}); !errors.Is(err, errDisk) {
		t.Errorf("ReadSnapshot = %v, want the error of the disk", err)
	}
	for name, im := range goldenImages(t) {
		if err := WriteSnapshot(failing{}, im); !errors.Is(err, errDisk) {
			t.Errorf("WriteSnapshot of %s = %v, want the error of the disk", name, err)
		}
	}
	// This one does not fit into the buffer, so that the write fails midway.
	if err := WriteSnapshot(failing{}, imageOf(registryWithForgotten(t, 0))); !errors.Is(err, errDisk) {
		t.Errorf("WriteSnapshot of a long one = %v, want the error of the disk", err)
	}
}

// No replica could read such a change again.
func TestAChangeThatHasNoFormatIsABug(t *testing.T) {
	for _, effect := range []domain.Effect{"", domain.Unchanged, "of a later build"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a change with the effect %q was encoded", effect)
				}
			}()
			appendChange(nil, &domain.Change{Effect: effect, Reason: domain.ByRequest, Node: &domain.CacheNode{}}, nil)
		}()
	}
}

// assembled returns a snapshot with these records and a correct checksum.
func assembled(version byte, records ...[]byte) []byte {
	b := append([]byte(snapshotMagic), version)
	for _, record := range records {
		b = binary.AppendUvarint(b, uint64(len(record)))
		b = append(b, record...)
	}
	return appendChecksum(b)
}

func headRecord(revision domain.Revision, history int) []byte {
	return message(recordHead, uintField(2, uint64(revision)), uintField(5, uint64(history)))
}

func stagedRecord(nodes uint64) []byte {
	return message(recordStaged, appendString(nil, 1, "r"), uintField(2, 1), uintField(3, nodes))
}

func stagedNodeRecord(id string) []byte {
	return message(recordStagedNode, message(1, nodeMessage(id, 1, 1)))
}

func promotionRecord(id string) []byte { return message(recordPromotion, appendString(nil, 1, id)) }

func endRecord(nodes int) []byte { return message(recordEnd, appendUint(nil, 1, uint64(nodes))) }

// nodeMessage is a node that was created at one revision, and last changed at another.
func nodeMessage(id string, created, revision domain.Revision) []byte {
	return appendNode(nil, &domain.CacheNode{
		ID: id, Address: id + ":1", Pool: "p", State: domain.Active, CreatedRevision: created, Revision: revision,
	})
}

func added(revision domain.Revision) []byte {
	return message(recordChange, uintField(changeEffect, 1), uintField(changeReason, 1),
		message(changeNode, nodeMessage("a", revision, revision)))
}

func TestASnapshotThatHoldsTogetherIsRead(t *testing.T) {
	data := assembled(snapshotVersion, headRecord(1, 1), added(1),
		message(recordNode, uintField(nodeReference, 1)), endRecord(1))
	if read := restoredFrom(t, data); read.View.Len() != 1 || read.View.Revision() != 1 {
		t.Errorf("registry = %+v, want one node at revision 1", domaintest.ContentsOf(read.View))
	}
}

func TestASnapshotThatDoesNotHoldTogetherIsAnError(t *testing.T) {
	const newer = "a newer build wrote it"
	one := uintField(changeEffect, 1)
	byRequest := uintField(changeReason, 1)
	node := message(changeNode, nodeMessage("a", 1, 1))
	change := func(fields ...[]byte) [][]byte {
		return [][]byte{headRecord(1, 1), message(recordChange, fields...), endRecord(0)}
	}
	second := func(fields ...[]byte) [][]byte {
		return [][]byte{headRecord(2, 2), added(1), message(recordChange, fields...), endRecord(0)}
	}
	tests := map[string]struct {
		records [][]byte
		says    string
	}{
		"an unknown kind of record":              {[][]byte{headRecord(0, 0), message(recordStagedNode + 1)}, newer},
		"an unknown field of a head":             {[][]byte{message(recordHead, uintField(6, 1))}, newer},
		"an unknown field of a change":           {change(one, byRequest, node, uintField(6, 1)), newer},
		"an unknown field of a node record":      {[][]byte{headRecord(1, 0), message(recordNode, uintField(3, 1))}, newer},
		"an unknown field of a promotion":        {[][]byte{headRecord(0, 0), message(recordPromotion, uintField(2, 1)), endRecord(0)}, newer},
		"a promotion without an id":              {[][]byte{headRecord(0, 0), message(recordPromotion), endRecord(0)}, "promotion"},
		"two promotions with one id":             {[][]byte{headRecord(0, 0), promotionRecord("a"), promotionRecord("a"), endRecord(0)}, "promotion"},
		"an unknown field of a staged restore":   {[][]byte{headRecord(0, 0), message(recordStaged, uintField(4, 1)), endRecord(0)}, newer},
		"an unknown field of a staged node":      {[][]byte{headRecord(0, 0), stagedRecord(1), message(recordStagedNode, uintField(2, 1)), endRecord(0)}, newer},
		"a staged restore without an id":         {[][]byte{headRecord(0, 0), message(recordStaged, uintField(2, 1)), endRecord(0)}, "out of place"},
		"a staged restore without a part":        {[][]byte{headRecord(0, 0), message(recordStaged, appendString(nil, 1, "r")), endRecord(0)}, "out of place"},
		"more staged parts than there can be":    {[][]byte{headRecord(0, 0), message(recordStaged, appendString(nil, 1, "r"), uintField(2, 1<<31)), endRecord(0)}, "out of range"},
		"more staged nodes than announced":       {[][]byte{headRecord(0, 0), stagedRecord(0), stagedNodeRecord("a"), endRecord(0)}, "1 staged nodes instead of 0"},
		"two staged restores":                    {[][]byte{headRecord(0, 0), stagedRecord(0), stagedRecord(0), endRecord(0)}, "out of place"},
		"a staged node without a staged restore": {[][]byte{headRecord(0, 0), stagedNodeRecord("a"), endRecord(0)}, "out of place"},
		"fewer staged nodes than announced":      {[][]byte{headRecord(0, 0), stagedRecord(2), stagedNodeRecord("a"), endRecord(0)}, "1 staged nodes instead of 2"},
		"staged nodes out of order":              {[][]byte{headRecord(0, 0), stagedRecord(2), stagedNodeRecord("b"), stagedNodeRecord("a"), endRecord(0)}, "ascending"},
		"promotions out of order":                {[][]byte{headRecord(0, 0), promotionRecord("b"), promotionRecord("a"), endRecord(0)}, "promotion"},
		"a promotion before the head":            {[][]byte{promotionRecord("a"), headRecord(0, 0), endRecord(0)}, "out of place"},
		"a promotion behind the end":             {[][]byte{headRecord(0, 0), append(endRecord(0), promotionRecord("a")...)}, "out of place"},
		"an unknown field of an end":             {[][]byte{headRecord(0, 0), message(recordEnd, uintField(2, 1))}, newer},
		"an unknown effect":                      {change(uintField(changeEffect, 4), byRequest, node), newer},
		"effect zero":                            {change(uintField(changeEffect, 0), byRequest, node), newer},
		"an unknown reason":                      {change(one, uintField(changeReason, 4), node), newer},
		"reason zero":                            {change(one, uintField(changeReason, 0), node), newer},
		"an enormous effect":                     {change(uintField(changeEffect, 1<<63), byRequest, node), newer},
		"a change without an effect":             {change(byRequest, node), "lacks"},
		"a change without a reason":              {change(one, node), "lacks"},
		"a change without a node":                {change(one, byRequest), "lacks"},
		"an empty change":                        {change(), "lacks"},
		"an empty node":                          {[][]byte{headRecord(1, 0), message(recordNode), endRecord(1)}, "empty"},
		"no head":                                {[][]byte{endRecord(0)}, "out of place"},
		"two heads":                              {[][]byte{headRecord(0, 0), headRecord(0, 0), endRecord(0)}, "out of place"},
		"a record behind the end":                {[][]byte{headRecord(0, 0), append(endRecord(0), endRecord(0)...)}, "out of place"},
		"no end":                                 {[][]byte{headRecord(0, 0)}, errTruncated.Error()},
		"no records":                             {nil, errTruncated.Error()},
		"a history longer than the revision":     {[][]byte{headRecord(1, 2)}, "do not fit"},
		"more changes than announced":            {[][]byte{headRecord(2, 1), added(2), added(3), endRecord(0)}, "more changes"},
		"fewer changes than announced":           {[][]byte{headRecord(2, 2), added(1), endRecord(0)}, "1 changes instead of 2"},
		"a huge number of changes announced":     {[][]byte{message(recordHead, uintField(2, 1<<63), uintField(5, 1<<63)), endRecord(0)}, "changes instead of"},
		"fewer nodes than announced":             {[][]byte{headRecord(1, 1), added(1), endRecord(1)}, "0 nodes instead of 1"},
		"more nodes than announced":              {[][]byte{headRecord(1, 1), added(1), message(recordNode, uintField(nodeReference, 1)), endRecord(0)}, "1 nodes instead of 0"},
		"a node that refers to a removal": {[][]byte{headRecord(2, 2), added(1), message(recordChange, uintField(changeEffect, 3), byRequest, uintField(changePreviousReference, 1)),
			message(recordNode, uintField(nodeReference, 2)), endRecord(1)}, "refers to revision 2"},
		"a huge number of nodes announced":                  {[][]byte{headRecord(0, 0), message(recordEnd, uintField(1, 1<<63))}, "nodes instead of"},
		"a node that refers to a missing change":            {[][]byte{headRecord(1, 1), added(1), message(recordNode, uintField(nodeReference, 2)), endRecord(1)}, "refers to revision 2"},
		"a node that refers to a change before the history": {[][]byte{headRecord(2, 1), added(2), message(recordNode, uintField(nodeReference, 1)), endRecord(1)}, "refers to revision 1"},
		"a previous node from the future":                   {change(uintField(changeEffect, 3), byRequest, uintField(changePreviousReference, 1)), "refers to revision 1"},
		"two nodes with one id":                             {[][]byte{headRecord(1, 1), added(1), message(recordNode, uintField(nodeReference, 1)), message(recordNode, uintField(nodeReference, 1)), endRecord(2)}, "share"},
		"a removal with a node":                             {second(uintField(changeEffect, 3), byRequest, message(changeNode, nodeMessage("a", 1, 1)), uintField(changePreviousReference, 1)), "does not fit"},
		"an addition with a previous node":                  {second(one, byRequest, message(changeNode, nodeMessage("b", 2, 2)), uintField(changePreviousReference, 1)), "does not fit"},
		"an update without a previous node":                 {change(uintField(changeEffect, 2), byRequest, node), "does not fit"},
		"a change whose node has another revision": {
			change(one, byRequest, message(changeNode, nodeMessage("a", 1, 9))), "does not fit"},
		"an inline previous node that the history has": {
			second(uintField(changeEffect, 3), byRequest, message(changePrevious, nodeMessage("a", 1, 1))), "does not fit"},
		"an inline node that the history has": {
			[][]byte{headRecord(1, 1), added(1), message(recordNode, message(nodeInline, nodeMessage("a", 1, 1))), endRecord(1)}, "does not fit"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ReadSnapshot(bytes.NewReader(assembled(snapshotVersion, test.records...)))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("ReadSnapshot = %+v, %v, want an error with %q", domaintest.ContentsOf(got.View), err, test.says)
			}
		})
	}
	t.Run("a later version", func(t *testing.T) {
		_, err := ReadSnapshot(bytes.NewReader(assembled(snapshotVersion+1, []byte("of another shape"))))
		if err == nil || !strings.Contains(err.Error(), "version 2, this build reads 1: "+newer) {
			t.Fatalf("ReadSnapshot = %v, want another error", err)
		}
	})
	t.Run("another file", func(t *testing.T) {
		_, err := ReadSnapshot(strings.NewReader("PK\x03\x04 this is no snapshot"))
		if err == nil || !strings.Contains(err.Error(), "does not begin like one") {
			t.Fatalf("ReadSnapshot = %v, want another error", err)
		}
	})
}

// The checksum covers the bytes as they are written, not their meaning.
func TestALengthThatIsWrittenAnotherWayIsDamage(t *testing.T) {
	head, end := headRecord(0, 0), endRecord(0)
	good := assembled(snapshotVersion, head, end)
	at := len(snapshotMagic) + 1
	if good[at] != byte(len(head)) {
		t.Fatalf("the head's length is not at the byte that this test changes: %x", good)
	}
	longer := slices.Insert(bytes.Clone(good), at+1, 0)
	longer[at] |= 0x80
	if _, err := ReadSnapshot(bytes.NewReader(longer)); !errors.Is(err, ErrChecksum) {
		t.Errorf("ReadSnapshot = %v, want ErrChecksum", err)
	}
}

// Before its checksum is verified, a snapshot costs no more memory than its bytes.
func TestAnAnnouncementCostsNoMemory(t *testing.T) {
	begin := append([]byte(snapshotMagic), snapshotVersion)
	tests := map[string][]byte{
		"a record of an enormous length":  binary.AppendUvarint(begin[:len(begin):len(begin)], 1<<62),
		"a record a byte too long":        binary.AppendUvarint(begin[:len(begin):len(begin)], maxRecord+1),
		"a length that never ends":        append(begin[:len(begin):len(begin)], bytes.Repeat([]byte{0xff}, 1000)...),
		"text of an enormous length":      assembled(snapshotVersion, message(recordHead, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.BytesType), 1<<40))),
		"a history of an enormous length": assembled(snapshotVersion, message(recordHead, uintField(2, 1<<62), uintField(5, 1<<62)), endRecord(0)),
		"an enormous number of nodes":     assembled(snapshotVersion, headRecord(0, 0), message(recordEnd, uintField(1, 1<<62))),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := ReadSnapshot(bytes.NewReader(data))
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("ReadSnapshot = nil, want an error")
			}
			// The buffer alone takes 64 KiB, and other goroutines allocate too.
			if spent := after.TotalAlloc - before.TotalAlloc; spent > maxRecord {
				t.Errorf("memory taken = %d bytes, want at most %d", spent, maxRecord)
			}
		})
	}
}

func FuzzReadSnapshot(f *testing.F) {
	for _, im := range goldenImages(f) {
		f.Add(snapshotOf(f, im))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The fuzzer hardly ever makes a valid checksum, so the test seals the data itself.
		for _, data := range [][]byte{data, resealed(data)} {
			read, err := ReadSnapshot(bytes.NewReader(data))
			if err != nil {
				continue
			}
			again := restoredFrom(t, snapshotOf(t, read.Snapshot))
			mustEqualImage(t, again.Snapshot, read.Snapshot)
		}
	})
}
