package bolt

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"log/slog"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// The part of a meta page, after the page header, that is read here. bbolt has two meta
// pages and writes them in turn, so that one of them is whole if a write is interrupted.
// It uses the whole one with the later transaction.
const (
	metaTxOffset  = 48 // number of the transaction
	metaSumOffset = 56 // FNV-1a of everything before
	metaSize      = 64
)

// warnOfTornMeta warns of a meta page that is not whole and may be later than the one that
// bbolt uses: then the last write is missing. The file does not tell whether that write
// was acknowledged.
func warnOfTornMeta(path string, file io.ReaderAt, pageSize int, logger *slog.Logger) {
	var meta [2][metaSize]byte
	whole := [2]bool{}
	for page := range meta {
		_, err := file.ReadAt(meta[page][:], int64(page)*int64(pageSize)+pageHeaderSize)
		sum := fnv.New64a()
		_, _ = sum.Write(meta[page][:metaSumOffset]) // never fails
		whole[page] = err == nil && sum.Sum64() == binary.NativeEndian.Uint64(meta[page][metaSumOffset:])
	}
	for page := range meta {
		tx := binary.NativeEndian.Uint64(meta[page][metaTxOffset:])
		other := binary.NativeEndian.Uint64(meta[1-page][metaTxOffset:])
		if !whole[page] && tx+1 != other { // the other one is whole, or bbolt would not open the file
			logstore.WarnOfTornEnd(logger, path, slog.Int("meta_page", page))
		}
	}
}
