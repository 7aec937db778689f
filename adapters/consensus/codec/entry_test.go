package codec

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

func TestAnyCommandComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cmd := domaintest.AnyCommand().Draw(t, "command")
		data := EncodeEntry(cmd)
		if again := EncodeEntry(cmd); !bytes.Equal(again, data) {
			t.Fatalf("two encodings of one command:\n%x\n%x", data, again)
		}
		got, err := DecodeEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the command", got, any(cmd))

		// Raft reuses the memory of an entry, so the command must not refer to it.
		clear(data)
		mustEqual(t, "the command, once its entry is overwritten", got, any(cmd))
	})
}

func TestAnyCommandsComeBackFromASharedEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		commands := CommandGroup(rapid.SliceOfN(domaintest.AnyCommand(), 1, 5).Draw(t, "commands"))
		var entries [][]byte
		for _, cmd := range commands {
			entries = append(entries, EncodeEntry(cmd))
		}
		data := JoinEntries(entries)
		if want := EncodeEntry(commands); !bytes.Equal(data, want) {
			t.Fatalf("JoinEntries = %x, want %x as encoded", data, want)
		}
		got, err := DecodeEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the commands", got, any(commands))
	})
}

// Only commands share entries.
func TestWhichEntriesAreCommands(t *testing.T) {
	for name, entry := range goldenEntries(t) {
		if _, want := entry.(domain.Command); IsCommand(EncodeEntry(entry)) != want {
			t.Errorf("IsCommand of %s = %t, want %t", name, !want, want)
		}
	}
}

func TestAnyOpeningComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entry := Opening{ClusterID: rapid.String().Draw(t, "cluster id")}
		got, err := DecodeEntry(EncodeEntry(entry))
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the opening", got, any(entry))
	})
}

func anyPromotion() *rapid.Generator[Promotion] {
	return rapid.Custom(func(t *rapid.T) Promotion {
		return Promotion{ID: rapid.StringN(1, 20, -1).Draw(t, "id"), Settled: rapid.Bool().Draw(t, "settled")}
	})
}

func TestAnyPromotionComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entry := anyPromotion().Draw(t, "promotion")
		got, err := DecodeEntry(EncodeEntry(entry))
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the promotion", got, any(entry))
	})
}

func TestADamagedEntryIsAnError(t *testing.T) {
	for name, entry := range goldenEntries(t) {
		t.Run(name, func(t *testing.T) {
			eachDamage(t, EncodeEntry(entry), func(t *testing.T, damaged []byte) {
				if err := VerifyEntry(damaged); !errors.Is(err, ErrChecksum) && !errors.Is(err, errTruncated) {
					t.Errorf("VerifyEntry(%x) = %v, want ErrChecksum or errTruncated", damaged, err)
				}
				if got, err := DecodeEntry(damaged); err == nil {
					t.Errorf("DecodeEntry(%x) = %+v, want an error", damaged, got)
				} else if !errors.Is(err, ErrChecksum) && !errors.Is(err, errTruncated) {
					t.Errorf("DecodeEntry(%x) = %v, want ErrChecksum or errTruncated", damaged, err)
				}
			})
			if _, err := DecodeEntry(append(EncodeEntry(entry), 0)); !errors.Is(err, ErrChecksum) {
				t.Errorf("DecodeEntry of an entry with an extra byte = %v, want ErrChecksum", err)
			}
		})
	}
}

// An entry of a newer build may be sent on, and is refused only where it is to be applied.
func TestAnEntryIsVerifiedWithoutBeingDecoded(t *testing.T) {
	for name, data := range map[string][]byte{
		"an opening":      EncodeEntry(Opening{ClusterID: "c"}),
		"a later version": appendChecksum([]byte{entryVersion + 1, byte(kindOpening)}),
		"an unknown kind": sealed(255, []byte("whatever")),
		"nothing":         appendChecksum(nil),
	} {
		if err := VerifyEntry(data); err != nil {
			t.Errorf("VerifyEntry of %s = %v, want success", name, err)
		}
	}
}

// sealed returns an entry of this version with the given body, and its checksum.
func sealed(kind entryKind, body []byte) []byte {
	return appendChecksum(append([]byte{entryVersion, byte(kind)}, body...))
}

func uintField(number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

func message(number protowire.Number, fields ...[]byte) []byte {
	return appendMessage(nil, number, func(b []byte) []byte { return append(b, bytes.Join(fields, nil)...) })
}

func TestAnEntryThatThisBuildDoesNotKnowIsAnError(t *testing.T) {
	const newer = "a newer build wrote it"
	tests := map[string]struct {
		data []byte
		says string
	}{
		"a later version": {
			data: appendChecksum([]byte{entryVersion + 1, byte(kindOpening)}),
			says: "version 2, this build reads 1: " + newer,
		},
		"an unknown kind":                         {data: sealed(kindGroup+1, nil), says: newer},
		"the highest kind":                        {data: sealed(255, nil), says: newer},
		"kind zero":                               {data: sealed(0, nil), says: newer},
		"an unknown field of an opening":          {data: sealed(kindOpening, uintField(2, 1)), says: newer},
		"an unknown field of a registration":      {data: sealed(kindRegister, uintField(3, 1)), says: newer},
		"an unknown field of a deregistration":    {data: sealed(kindDeregister, uintField(3, 1)), says: newer},
		"an unknown field of a node":              {data: sealed(kindRegister, message(1, uintField(nodeExpiredFrom+1, 1))), says: newer},
		"an unknown action on expiry":             {data: sealed(kindRegister, message(1, uintField(nodeDownOnExpiry, 2))), says: newer},
		"an unknown field of an expiry":           {data: sealed(kindExpire, uintField(2, 1)), says: newer},
		"an unknown field of a node that expires": {data: sealed(kindExpire, message(1, uintField(3, 1))), says: newer},
		"an unknown field of a revival":           {data: sealed(kindRevive, uintField(2, 1)), says: newer},
		"an unknown kind in a batch":              {data: sealed(kindBatch, message(protowire.Number(kindRevive)+1)), says: newer},
		"an opening in a batch":                   {data: sealed(kindBatch, message(protowire.Number(kindOpening))), says: newer},
		"a batch in a batch":                      {data: sealed(kindBatch, message(protowire.Number(kindBatch), message(protowire.Number(kindDeregister), appendString(nil, 1, "a")))), says: newer},
		"an expiry in a batch":                    {data: sealed(kindBatch, message(protowire.Number(kindExpire))), says: newer},
		"a revival in a batch":                    {data: sealed(kindBatch, message(protowire.Number(kindRevive), appendString(nil, 1, "a"))), says: newer},
		"a kind over a byte in a batch":           {data: sealed(kindBatch, message(256+protowire.Number(kindDeregister), appendString(nil, 1, "a"))), says: newer},
		"an unknown field of the second command in a batch": {data: sealed(kindBatch, append(message(protowire.Number(kindDeregister), appendString(nil, 1, "a")),
			message(protowire.Number(kindDeregister), uintField(3, 1))...)), says: newer},
		"an unknown field of a node in a batch":                    {data: sealed(kindBatch, message(protowire.Number(kindRegister), message(1, uintField(nodeExpiredFrom+1, 1)))), says: newer},
		"an unknown condition in a batch":                          {data: sealed(kindBatch, message(protowire.Number(kindDeregister), message(2, uintField(1, 4)))), says: newer},
		"an unknown wire type in a batch":                          {data: sealed(kindBatch, protowire.AppendFixed64(protowire.AppendTag(nil, 2, protowire.Fixed64Type), 1)), says: newer},
		"an opening in a shared entry":                             {data: sealed(kindGroup, message(protowire.Number(kindOpening))), says: newer},
		"a shared entry in a shared entry":                         {data: sealed(kindGroup, message(protowire.Number(kindGroup))), says: newer},
		"a kind over a byte in a shared entry":                     {data: sealed(kindGroup, message(256+protowire.Number(kindDeregister), appendString(nil, 1, "a"))), says: newer},
		"an unknown field of the second command in a shared entry": {data: sealed(kindGroup, append(message(protowire.Number(kindRevive)), message(protowire.Number(kindRevive), uintField(2, 1))...)), says: newer},
		"a number in place of a command in a shared entry":         {data: sealed(kindGroup, uintField(protowire.Number(kindRevive), 1)), says: "field 6 has wire type"},
		"a number in place of a command in a batch":                {data: sealed(kindBatch, uintField(protowire.Number(kindRegister), 1)), says: "field 2 has wire type"},
		"a number in place of a node that expires":                 {data: sealed(kindExpire, uintField(1, 1)), says: "field 1 has wire type"},
		"a time to live out of range":                              {data: sealed(kindRegister, message(1, uintField(nodeTTLSeconds, 1<<32))), says: "out of range"},
		"a command in a batch that ends in its tag":                {data: sealed(kindBatch, message(protowire.Number(kindRegister), []byte{0x80})), says: "malformed"},
		"an unknown field of a promotion":                          {data: sealed(kindPromotion, uintField(3, 1)), says: newer},
		"a registration without a node":                            {data: sealed(kindRegister, nil), says: "of nothing"},
		"a promotion without an id":                                {data: sealed(kindPromotion, nil), says: "of nobody"},
		"text in place of whether a promotion is settled":          {data: sealed(kindPromotion, appendString(nil, 2, "x")), says: "field 2 has wire type"},
		"an unknown field of a part of a restore":                  {data: sealed(kindRestorePart, uintField(4, 1)), says: newer},
		"an unknown field of a commit of a restore":                {data: sealed(kindRestoreCommit, uintField(4, 1)), says: newer},
		"an unknown field of an expected revision":                 {data: sealed(kindRestoreCommit, message(3, uintField(2, 1))), says: newer},
		"an unknown field of an abort of a restore":                {data: sealed(kindRestoreAbort, uintField(2, 1)), says: newer},
		"a part without the id of its restore":                     {data: sealed(kindRestorePart, nil), says: "without an id"},
		"a commit without the id of its restore":                   {data: sealed(kindRestoreCommit, nil), says: "without an id"},
		"an abort without the id of its restore":                   {data: sealed(kindRestoreAbort, nil), says: "without an id"},
		"the number of a part that is out of range":                {data: sealed(kindRestorePart, append(appendString(nil, 1, "r"), uintField(2, 1<<31)...)), says: "out of range"},
		"a number of parts that is out of range":                   {data: sealed(kindRestoreCommit, append(appendString(nil, 1, "r"), uintField(2, 1<<31)...)), says: "out of range"},
		"a number in place of an expected revision":                {data: sealed(kindRestoreCommit, uintField(3, 1)), says: "field 3 has wire type"},
		"a number in place of a node to restore":                   {data: sealed(kindRestorePart, uintField(3, 1)), says: "field 3 has wire type"},
		"an unknown field of a label":                              {data: sealed(kindRegister, message(1, message(nodeLabel, uintField(3, 1)))), says: newer},
		"an unknown field of a condition":                          {data: sealed(kindRegister, message(2, uintField(3, 1))), says: newer},
		"an unknown condition":                                     {data: sealed(kindDeregister, message(2, uintField(1, 4))), says: newer},
		"a condition over a byte":                                  {data: sealed(kindDeregister, message(2, uintField(1, 256))), says: newer},
		"an unknown wire type":                                     {data: sealed(kindOpening, protowire.AppendFixed32(protowire.AppendTag(nil, 2, protowire.Fixed32Type), 1)), says: newer},
		"a number in place of text":                                {data: sealed(kindOpening, uintField(1, 1)), says: "field 1 has wire type"},
		"a number in place of a node":                              {data: sealed(kindRegister, uintField(1, 1)), says: "field 1 has wire type"},
		"text in place of a number":                                {data: sealed(kindRegister, message(1, appendString(nil, nodeWeight, "x"))), says: "field 4 has wire type"},
		"a weight that is out of range":                            {data: sealed(kindRegister, message(1, uintField(nodeWeight, 1<<31))), says: "out of range"},
		"a slot that is out of range":                              {data: sealed(kindRegister, message(1, uintField(nodeSlot, 1<<63))), says: "out of range"},
		"text that is longer than the entry":                       {data: sealed(kindOpening, append(protowire.AppendTag(nil, 1, protowire.BytesType), 0xff, 0xff, 0xff, 0xff, 0x0f, 'x')), says: "malformed"},
		"a field that ends in its tag":                             {data: sealed(kindOpening, []byte{0x80}), says: "malformed"},
		"nothing but a checksum":                                   {data: appendChecksum(nil), says: errTruncated.Error()},
		"nothing behind the version":                               {data: appendChecksum([]byte{entryVersion}), says: errTruncated.Error()},
		"nothing at all":                                           {says: errTruncated.Error()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := DecodeEntry(test.data); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("DecodeEntry = %+v, %v, want an error with %q", got, err, test.says)
			}
		})
	}
}

// No replica could read such an entry again, so it must never come into the log.
func TestAnEntryThatHasNoFormatIsABug(t *testing.T) {
	for name, entry := range map[string]any{
		"a value that is no command": domain.Change{},
		"nil":                        nil,
		"a batch of nil":             domain.Batch{Commands: []domain.Command{nil}},
		"a batch of batches":         domain.Batch{Commands: []domain.Command{domain.Batch{}}},
		"an expiry in a batch": domain.Batch{Commands: []domain.Command{
			domain.Deregister{ID: "a"}, domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 1}}},
		}},
		"a revival in a batch":  domain.Batch{Commands: []domain.Command{domain.Revive{ID: "a"}}},
		"a shared entry of nil": CommandGroup{nil},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("EncodeEntry did not panic")
				}
			}()
			EncodeEntry(entry)
		})
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, entry := range goldenEntries(f) {
		f.Add(EncodeEntry(entry))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The fuzzer hardly ever makes a valid checksum, so the test seals the data itself.
		for _, data := range [][]byte{data, resealed(data)} {
			entry, err := DecodeEntry(data)
			if err != nil {
				continue
			}
			again, err := DecodeEntry(EncodeEntry(entry))
			if err != nil {
				t.Fatalf("DecodeEntry of %+v = %v, want success", entry, err)
			}
			if !reflect.DeepEqual(again, entry) {
				t.Fatalf("DecodeEntry(EncodeEntry(%+v)) = %+v, want the same", entry, again)
			}
		}
	})
}
