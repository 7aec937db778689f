package badger

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// memtableSize bounds four things. A transaction may be 15 % of it, which must
// hold a value of the threshold below and raft's usual batch. An idle store takes
// a few times as much memory. As much may be written before what was removed
// leaves the disk. And the file of a memtable, mostly sparse, is twice as long.
const memtableSize = 2 << 20

// memtableFor is memtableSize, or what an earlier build made memtables of that a
// crash left in path: badger takes them back as they are, and ends the process where
// they do not fit.
func memtableFor(path string) int64 {
	size := int64(memtableSize)
	files, _ := logstore.FilesNamed(path, "", walSuffix) // who opens path says why it can't
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			size = max(size, info.Size()/2)
		}
	}
	return size
}

// optionsFor gives badger's options for a log: written in order, read rarely (raft's
// cache stands before the store), removed from the front. Its defaults are for a
// large database and would take some 500 MB.
func optionsFor(path string, logger *slog.Logger) badger.Options {
	return badger.DefaultOptions(path).
		WithSyncWrites(true).
		WithMemTableSize(memtableFor(path)).
		WithNumMemtables(2).
		// Above partSize: every value stays in the LSM tree, none in the value log.
		WithValueThreshold(300 << 10).
		WithValueLogFileSize(1 << 20).
		// Few tables at level 0 before they are merged: that is when what was
		// removed leaves the disk.
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2). // the least that badger runs with
		// Caches would hold blocks that are read once. Without compression the
		// tables are read through the memory map.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		// Damage in a table is found when it is opened, and again when a block is
		// read; an iterator would take a block that it can't read for the end.
		WithChecksumVerificationMode(options.OnTableAndBlockRead).
		// There is one writer.
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		WithMetricsEnabled(false).
		WithLogger(bridge{logger})
}

// bridge hands badger's log to slog. What badger calls information is about its
// own insides, so it is debug output of ours.
type bridge struct{ logger *slog.Logger }

func (b bridge) Errorf(format string, args ...any) {
	b.logger.Error(line(format, args))
}

func (b bridge) Warningf(format string, args ...any) {
	b.logger.Warn(line(format, args))
}

func (b bridge) Infof(format string, args ...any) { b.debug(format, args) }

func (b bridge) Debugf(format string, args ...any) { b.debug(format, args) }

func (b bridge) debug(format string, args []any) {
	// badger says several things with every write: don't format what nobody reads.
	if !b.logger.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	if said := line(format, args); said != "" {
		b.logger.Debug(said)
	}
}

func line(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
