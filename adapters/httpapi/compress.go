package httpapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// compressFrom is the length from which a list is compressed for clients that accept gzip.
// A shorter one is sent in less time than compression takes.
const compressFrom = 64 << 10

var (
	gzipCoding     = []string{"gzip"}
	acceptEncoding = []string{"Accept-Encoding"}
)

// getCompressed is get for a client that accepts gzip. A list is compressed once for all
// requests, right after it is encoded and with the same permit: otherwise all lists would
// be encoded first, and the first would be done hardly earlier than the last.
func (c *listCache) getCompressed(ctx context.Context, view domain.View, filter domain.Filter) (*encodedList, error) {
	shared := c.sharedFor(filter)
	return c.once(ctx, shared,
		func() *encodedList { return shared.forGzip(view) },
		func() *encodedList {
			list := c.encode(shared, view, filter)
			if len(list.body) < compressFrom {
				return list
			}
			list = list.compress()
			shared.compressed.Store(list)
			c.trim(shared)
			return list
		})
}

var compressors = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is valid
	}
	return w
}}

// compress returns l compressed with gzip. Its ETag is the revision too, as the API
// promises: a client may accept gzip without knowing of it. Answers have Vary and no-cache,
// so that no cache confuses the two.
func (l *encodedList) compress() *encodedList {
	compressed := bytes.NewBuffer(make([]byte, 0, len(l.body)/8))
	w := compressors.Get().(*gzip.Writer)
	defer compressors.Put(w)
	w.Reset(compressed)
	_, _ = w.Write(l.body) // a buffer takes everything
	_ = w.Close()
	return &encodedList{
		revision:       l.revision,
		body:           compressed.Bytes(),
		etag:           l.etag,
		revisionHeader: l.revisionHeader,
		length:         []string{strconv.Itoa(compressed.Len())},
		coding:         gzipCoding,
	}
}

// takesGzip reports whether r accepts gzip with at least the weight of identity. An element
// that is not understood is ignored.
func takesGzip(r request) bool {
	gzipWeight, identityWeight, otherWeight := -1, -1, 0
	for _, line := range r.Header["Accept-Encoding"] {
		for element := range strings.SplitSeq(line, ",") {
			coding, parameter, weighted := strings.Cut(element, ";")
			weight, ok := 1000, true
			if weighted {
				weight, ok = weightOf(parameter)
			}
			if !ok {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "gzip", "x-gzip":
				gzipWeight = weight
			case "identity":
				identityWeight = weight
			case "*":
				otherWeight = weight
			}
		}
	}
	if gzipWeight < 0 {
		gzipWeight = otherWeight
	}
	return gzipWeight > 0 && gzipWeight >= identityWeight
}

// weightOf reads q=0.5 as 500; RFC 9110 has no more than three digits after the point.
func weightOf(parameter string) (int, bool) {
	name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
	whole, fraction, _ := strings.Cut(strings.TrimSpace(value), ".")
	if !strings.EqualFold(strings.TrimSpace(name), "q") || whole != "0" && whole != "1" || len(fraction) > 3 {
		return 0, false
	}
	weight, err := strconv.ParseUint(whole+(fraction + "000")[:3], 10, 16)
	return int(weight), err == nil && weight <= 1000
}
