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

// memtableSize determines four things. A transaction may be 15 % of it, which must be
// enough for a value of the threshold below and for raft's usual batch. An idle store
// takes a few times as much memory. As much may be written before removed entries leave
// the disk. And the file of a memtable, mostly sparse, is twice as long.
const memtableSize = 2 << 20

// memtableFor returns memtableSize, or more if a crash of an earlier build left larger
// memtables in path: badger loads them as they are, and ends the process if they do not
// fit.
func memtableFor(path string) int64 {
	size := int64(memtableSize)
	files, _ := logstore.FilesNamed(path, "", walSuffix) // opening path reports the error
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			size = max(size, info.Size()/2)
		}
	}
	return size
}

// optionsFor returns badger's options for a log: written in order, read rarely (raft
// caches entries in front of the store), removed from the beginning. badger's defaults
// are for a large database and would take some 500 MB.
func optionsFor(path string, logger *slog.Logger) badger.Options {
	return badger.DefaultOptions(path).
		WithSyncWrites(true).
		WithMemTableSize(memtableFor(path)).
		WithNumMemtables(2).
		// Above partSize: every value stays in the LSM tree, none in the value log.
		WithValueThreshold(300 << 10).
		WithValueLogFileSize(1 << 20).
		// Few tables at level 0 before they are merged: removed entries leave the disk
		// only then.
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2). // the least that badger runs with
		// Caches would hold blocks that are read once. Without compression the
		// tables are read through the memory map.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		// Verify when a table is opened and when a block is read: an iterator takes an
		// unreadable block for the end.
		WithChecksumVerificationMode(options.OnTableAndBlockRead).
		// There is one writer.
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		WithMetricsEnabled(false).
		WithLogger(bridge{logger})
}

// bridge passes badger's log to slog. badger's info messages are about its internals, so
// they are logged at debug level.
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
	// badger logs several messages for every write: don't format them in vain.
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
