package codec

import (
	"bytes"
	"io"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

func BenchmarkEncodeEntry(b *testing.B) {
	cmd := domaintest.UsualRegister(b, 1, 100)
	b.ReportAllocs()
	for b.Loop() {
		EncodeEntry(cmd)
	}
	b.ReportMetric(float64(len(EncodeEntry(cmd))), "bytes/entry")
}

func BenchmarkDecodeEntry(b *testing.B) {
	data := EncodeEntry(domaintest.UsualRegister(b, 1, 100))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeEntry(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteSnapshot(b *testing.B) {
	im := imageOf(domaintest.FullRegistry(b))
	size := len(snapshotOf(b, im))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if err := WriteSnapshot(io.Discard, im); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size), "bytes/snapshot")
}

func BenchmarkReadSnapshot(b *testing.B) {
	data := snapshotOf(b, imageOf(domaintest.FullRegistry(b)))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadSnapshot(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}
