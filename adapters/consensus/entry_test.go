package consensus

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestAnyCommandComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cmd := anyCommand().Draw(t, "command")
		data := encodeEntry(cmd)
		if again := encodeEntry(cmd); !bytes.Equal(again, data) {
			t.Fatalf("one command, two encodings:\n%x\n%x", data, again)
		}
		got, err := decodeEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the command", got, any(cmd))

		// Raft reuses the memory of an entry.
		clear(data)
		mustEqual(t, "the command, once its entry is overwritten", got, any(cmd))
	})
}

func TestAnyCommandsComeBackFromTheEntryThatTheyShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		commands := commandGroup(rapid.SliceOfN(anyCommand(), 1, 5).Draw(t, "commands"))
		var entries [][]byte
		for _, cmd := range commands {
			entries = append(entries, encodeEntry(cmd))
		}
		data := joinEntries(entries)
		if want := encodeEntry(commands); !bytes.Equal(data, want) {
			t.Fatalf("joined as %x, encoded as %x", data, want)
		}
		got, err := decodeEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the commands", got, any(commands))
	})
}

// Only these share entries: see sharing.
func TestWhichEntriesAreCommands(t *testing.T) {
	for name, entry := range goldenEntries(t) {
		if _, want := entry.(domain.Command); isCommand(encodeEntry(entry)) != want {
			t.Errorf("isCommand of %s = %t, want %t", name, !want, want)
		}
	}
}

func TestAnyOpeningComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entry := opening{ClusterID: rapid.String().Draw(t, "cluster id")}
		got, err := decodeEntry(encodeEntry(entry))
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the opening", got, any(entry))
	})
}

func TestAnyPromotionComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entry := anyPromotion().Draw(t, "promotion")
		got, err := decodeEntry(encodeEntry(entry))
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "the promotion", got, any(entry))
	})
}

func TestADamagedEntryIsAnError(t *testing.T) {
	for name, entry := range goldenEntries(t) {
		t.Run(name, func(t *testing.T) {
			eachDamage(t, encodeEntry(entry), func(t *testing.T, damaged []byte) {
				if got, err := decodeEntry(damaged); err == nil {
					t.Errorf("decodeEntry(%x) = %+v, want an error", damaged, got)
				} else if !errors.Is(err, errChecksum) && !errors.Is(err, errTruncated) {
					t.Errorf("decodeEntry(%x) = %v, want a fault of the checksum first", damaged, err)
				}
			})
			if _, err := decodeEntry(append(encodeEntry(entry), 0)); !errors.Is(err, errChecksum) {
				t.Errorf("with a byte too many: %v", err)
			}
		})
	}
}

// sealed gives an entry of this version with any body.
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
		"a kind that is not known":            {data: sealed(kindGroup+1, nil), says: newer},
		"the last kind that there could be":   {data: sealed(255, nil), says: newer},
		"kind zero":                           {data: sealed(0, nil), says: newer},
		"a field that openings lack":          {data: sealed(kindOpening, uintField(2, 1)), says: newer},
		"a field that registers lack":         {data: sealed(kindRegister, uintField(3, 1)), says: newer},
		"a field that deregisters lack":       {data: sealed(kindDeregister, uintField(3, 1)), says: newer},
		"a field that nodes lack":             {data: sealed(kindRegister, message(1, uintField(nodeExpiredFrom+1, 1))), says: newer},
		"an end of a lease that is not known": {data: sealed(kindRegister, message(1, uintField(nodeDownOnExpiry, 2))), says: newer},
		"a field that expires lack":           {data: sealed(kindExpire, uintField(2, 1)), says: newer},
		"a field that expiring nodes lack":    {data: sealed(kindExpire, message(1, uintField(3, 1))), says: newer},
		"a field that revivals lack":          {data: sealed(kindRevive, uintField(2, 1)), says: newer},
		"a kind that batches lack":            {data: sealed(kindBatch, message(protowire.Number(kindRevive)+1)), says: newer},
		"an opening in a batch":               {data: sealed(kindBatch, message(protowire.Number(kindOpening))), says: newer},
		"a batch in a batch":                  {data: sealed(kindBatch, message(protowire.Number(kindBatch), message(protowire.Number(kindDeregister), appendString(nil, 1, "a")))), says: newer},
		"an expiry in a batch":                {data: sealed(kindBatch, message(protowire.Number(kindExpire))), says: newer},
		"a revival in a batch":                {data: sealed(kindBatch, message(protowire.Number(kindRevive), appendString(nil, 1, "a"))), says: newer},
		"a kind in a batch beyond a byte":     {data: sealed(kindBatch, message(256+protowire.Number(kindDeregister), appendString(nil, 1, "a"))), says: newer},
		"a field that the second one lacks": {data: sealed(kindBatch, append(message(protowire.Number(kindDeregister), appendString(nil, 1, "a")),
			message(protowire.Number(kindDeregister), uintField(3, 1))...)), says: newer},
		"a field of a node in a batch":            {data: sealed(kindBatch, message(protowire.Number(kindRegister), message(1, uintField(nodeExpiredFrom+1, 1)))), says: newer},
		"a condition, in a batch, not known":      {data: sealed(kindBatch, message(protowire.Number(kindDeregister), message(2, uintField(1, 4)))), says: newer},
		"a wire type, in a batch, not known":      {data: sealed(kindBatch, protowire.AppendFixed64(protowire.AppendTag(nil, 2, protowire.Fixed64Type), 1)), says: newer},
		"an opening in a shared entry":            {data: sealed(kindGroup, message(protowire.Number(kindOpening))), says: newer},
		"a shared entry in a shared entry":        {data: sealed(kindGroup, message(protowire.Number(kindGroup))), says: newer},
		"a kind in a shared entry beyond a byte":  {data: sealed(kindGroup, message(256+protowire.Number(kindDeregister), appendString(nil, 1, "a"))), says: newer},
		"a field that the second one there lacks": {data: sealed(kindGroup, append(message(protowire.Number(kindRevive)), message(protowire.Number(kindRevive), uintField(2, 1))...)), says: newer},
		"a number where a command is shared":      {data: sealed(kindGroup, uintField(protowire.Number(kindRevive), 1)), says: "field 6 has wire type"},
		"a number in the place of a command":      {data: sealed(kindBatch, uintField(protowire.Number(kindRegister), 1)), says: "field 2 has wire type"},
		"a number where a node expires":           {data: sealed(kindExpire, uintField(1, 1)), says: "field 1 has wire type"},
		"a time to live out of range":             {data: sealed(kindRegister, message(1, uintField(nodeTTLSeconds, 1<<32))), says: "out of range"},
		"a command that ends in its tag":          {data: sealed(kindBatch, message(protowire.Number(kindRegister), []byte{0x80})), says: "malformed"},
		"a field that promotions lack":            {data: sealed(kindPromotion, uintField(3, 1)), says: newer},
		"a registration of nothing":               {data: sealed(kindRegister, nil), says: "of nothing"},
		"a promotion of nobody":                   {data: sealed(kindPromotion, nil), says: "of nobody"},
		"text where a promotion is settled":       {data: sealed(kindPromotion, appendString(nil, 2, "x")), says: "field 2 has wire type"},
		"a field that parts of a restore lack":    {data: sealed(kindRestorePart, uintField(4, 1)), says: newer},
		"a field that commits of a restore lack":  {data: sealed(kindRestoreCommit, uintField(4, 1)), says: newer},
		"a field that a revision lacks":           {data: sealed(kindRestoreCommit, message(3, uintField(2, 1))), says: newer},
		"a field that aborts of a restore lack":   {data: sealed(kindRestoreAbort, uintField(2, 1)), says: newer},
		"a part of no restore":                    {data: sealed(kindRestorePart, nil), says: "without an id"},
		"a commit of no restore":                  {data: sealed(kindRestoreCommit, nil), says: "without an id"},
		"an abort of no restore":                  {data: sealed(kindRestoreAbort, nil), says: "without an id"},
		"a number where a revision is expected":   {data: sealed(kindRestoreCommit, uintField(3, 1)), says: "field 3 has wire type"},
		"a number where a node is to be restored": {data: sealed(kindRestorePart, uintField(3, 1)), says: "field 3 has wire type"},
		"a field that labels lack":                {data: sealed(kindRegister, message(1, message(nodeLabel, uintField(3, 1)))), says: newer},
		"a field that conditions lack":            {data: sealed(kindRegister, message(2, uintField(3, 1))), says: newer},
		"a condition that is not known":           {data: sealed(kindDeregister, message(2, uintField(1, 4))), says: newer},
		"a condition beyond a byte":               {data: sealed(kindDeregister, message(2, uintField(1, 256))), says: newer},
		"a wire type that is not known":           {data: sealed(kindOpening, protowire.AppendFixed32(protowire.AppendTag(nil, 2, protowire.Fixed32Type), 1)), says: newer},
		"a number where text belongs":             {data: sealed(kindOpening, uintField(1, 1)), says: "field 1 has wire type"},
		"a number where a node belongs":           {data: sealed(kindRegister, uintField(1, 1)), says: "field 1 has wire type"},
		"text where a number belongs":             {data: sealed(kindRegister, message(1, appendString(nil, nodeWeight, "x"))), says: "field 4 has wire type"},
		"a weight that is out of range":           {data: sealed(kindRegister, message(1, uintField(nodeWeight, 1<<31))), says: "out of range"},
		"a slot that is out of range":             {data: sealed(kindRegister, message(1, uintField(nodeSlot, 1<<63))), says: "out of range"},
		"text that is longer than the entry":      {data: sealed(kindOpening, append(protowire.AppendTag(nil, 1, protowire.BytesType), 0xff, 0xff, 0xff, 0xff, 0x0f, 'x')), says: "malformed"},
		"a field that ends in its tag":            {data: sealed(kindOpening, []byte{0x80}), says: "malformed"},
		"nothing but a checksum":                  {data: appendChecksum(nil), says: errTruncated.Error()},
		"nothing behind the version":              {data: appendChecksum([]byte{entryVersion}), says: errTruncated.Error()},
		"nothing at all":                          {says: errTruncated.Error()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := decodeEntry(test.data); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%+v, error %v; want one that says %q", got, err, test.says)
			}
		})
	}
}

// No replica could read it again: it must not come into the log.
func TestAnEntryThatHasNoFormatIsABug(t *testing.T) {
	for name, entry := range map[string]any{
		"what is no command": domain.Change{},
		"nothing":            nil,
		"a batch of nothing": domain.Batch{Commands: []domain.Command{nil}},
		"a batch of batches": domain.Batch{Commands: []domain.Command{domain.Batch{}}},
		"an expiry in a batch": domain.Batch{Commands: []domain.Command{
			domain.Deregister{ID: "a"}, domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 1}}},
		}},
		"a revival in a batch": domain.Batch{Commands: []domain.Command{domain.Revive{ID: "a"}}},
		"nothing, shared":      commandGroup{nil},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("encodeEntry did not panic")
				}
			}()
			encodeEntry(entry)
		})
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, entry := range goldenEntries(f) {
		f.Add(encodeEntry(entry))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Nearly nothing that is drawn has a right checksum.
		for _, data := range [][]byte{data, resealed(data)} {
			entry, err := decodeEntry(data)
			if err != nil {
				continue
			}
			again, err := decodeEntry(encodeEntry(entry))
			if err != nil {
				t.Fatalf("decodeEntry of %+v = %v, want success", entry, err)
			}
			if !reflect.DeepEqual(again, entry) {
				t.Fatalf("%+v was decoded as %+v", entry, again)
			}
		}
	})
}
