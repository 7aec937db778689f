package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// badger's files.
const (
	manifestFile    = "MANIFEST" // lists the tables
	keyRegistryFile = "KEYREGISTRY"
	discardFile     = "DISCARD" // statistics of the value logs
	walSuffix       = ".mem"
	tableSuffix     = ".sst"
	valueSuffix     = ".vlog"
)

// ErrDamagedTables is what Open returns if a table, or the manifest that lists the tables,
// is damaged or missing.
var ErrDamagedTables = logstore.Damage("badger files are damaged: nothing was changed; " + logstore.HelpDamaged)

// check looks for damage that would end the process in badger, or that badger would
// repair by dropping entries. It reports whether a log was ever written in path.
func check(path string, logger *slog.Logger) (written bool, err error) {
	listed, err := listedTables(path, logger)
	if errors.Is(err, fs.ErrNotExist) {
		return false, refuseUnlisted(path)
	}
	if err != nil {
		return true, err
	}
	for _, id := range listed {
		err := verifyTable(table.NewFilename(id, path))
		if logstore.IsRefusal(err) {
			return true, err
		}
		if err != nil {
			return true, fmt.Errorf("%w (%s: %w)", ErrDamagedTables, table.NewFilename(id, path), err)
		}
	}
	return true, errors.Join(verifyKeys(path), verifyValueLogs(path), refuseLostEntries(path), verifyDiscardFile(path))
}

// verifyKeys reads the registry of encryption keys, which is empty here.
func verifyKeys(dir string) error {
	path := filepath.Join(dir, keyRegistryFile)
	if _, err := os.ReadFile(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // badger makes a new one
		}
		return err
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("%w (%s: %w)", ErrDamagedTables, path, err)
	}
	return keys.Close()
}

// verifyDiscardFile reads the discard file: if badger can't, it ends the process.
func verifyDiscardFile(dir string) error {
	_, err := os.ReadFile(filepath.Join(dir, discardFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// verifyValueLogs checks the headers of the value logs. The value logs never hold
// anything here, but badger opens all of them.
func verifyValueLogs(dir string) error {
	paths, err := logstore.FilesNamed(dir, "", valueSuffix)
	if err != nil {
		return err
	}
	for _, path := range paths {
		header, err := headerOf(path)
		if err != nil {
			return err
		}
		if encrypted(header) {
			return fmt.Errorf("%w (%s: its beginning makes no sense)", ErrDamagedTables, path)
		}
	}
	return nil
}

// headerOf reads the header of a value log, or less if the file is shorter.
func headerOf(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(file, walHeaderSize))
}

// listedTables returns the ids of the tables in use. There may be files of others, which a
// crash left half written, or which were merged into another table.
func listedTables(dir string, logger *slog.Logger) (ids []uint64, err error) {
	path := filepath.Join(dir, manifestFile)
	// badger reports a read error as a malformed manifest: find it first.
	if _, err := os.ReadFile(path); err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	list, end, err := badger.ReplayManifestFile(file, 0, optionsFor(dir, slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, fmt.Errorf("%w (%s: %w)", ErrDamagedTables, path, err)
	}
	if end < info.Size() {
		logstore.WarnOfTornEnd(logger, path, slog.Int64("byte", end))
	}
	return slices.Sorted(maps.Keys(list.Tables)), nil
}

// refuseUnlisted refuses a folder that has logs or tables but no manifest: badger would
// create an empty manifest, and remove every table because it is not listed. badger
// creates the manifest before the other files, so it was lost.
func refuseUnlisted(dir string) error {
	for _, suffix := range []string{walSuffix, tableSuffix} {
		paths, err := logstore.FilesNamed(dir, "", suffix)
		if err != nil {
			return err
		}
		if len(paths) > 0 {
			return fmt.Errorf("%w (%s is missing)", ErrDamagedTables, filepath.Join(dir, manifestFile))
		}
	}
	return nil
}

// verifyTable reads a table and verifies its checksums. badger does that as well, but
// in its own goroutines, where a panic over a malformed table ends the process.
func verifyTable(path string) (err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// badger trusts the sizes at the end, and the index that they lead to.
	if err := verifyIndex(raw); err != nil {
		return err
	}
	defer func() {
		if fault := recover(); fault != nil {
			err = errors.New("a block makes no sense")
		}
	}()
	opened, err := table.OpenInMemoryTable(raw, 0, &table.Options{ChkMode: options.OnTableAndBlockRead})
	if err != nil {
		return err
	}
	return opened.VerifyChecksum()
}

// verifyIndex checks the end of a table:
//
//	blocks | index | its size | pb.Checksum of the index | its size (both sizes u32, big-endian)
func verifyIndex(raw []byte) error {
	// take removes a size from the end of raw, and that many bytes before it, which it
	// returns.
	take := func() (taken []byte, ok bool) {
		if len(raw) < 4 {
			return nil, false
		}
		raw, taken = raw[:len(raw)-4], raw[len(raw)-4:]
		size := uint64(binary.BigEndian.Uint32(taken))
		if size > uint64(len(raw)) {
			return nil, false
		}
		begin := uint64(len(raw)) - size
		raw, taken = raw[:begin], raw[begin:]
		return taken, true
	}
	encoded, hasSum := take()
	index, hasIndex := take()
	var sum pb.Checksum
	if !hasSum || !hasIndex || proto.Unmarshal(encoded, &sum) != nil || sum.GetAlgo() != pb.Checksum_CRC32C || y.VerifyChecksum(index, &sum) != nil {
		return errors.New("its index makes no sense")
	}
	return nil
}
