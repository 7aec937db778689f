package codec

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// The length of a message is known only when it is encoded, and a large length takes more
// bytes.
func TestAMessageIsOfAnyLength(t *testing.T) {
	for _, length := range []int{0, 1, 127, 128, 16_383, 16_384, 1 << 21} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			filling := bytes.Repeat([]byte{'x'}, length)
			inner := protowire.AppendBytes(protowire.AppendTag([]byte("before"), 3, protowire.BytesType), filling)
			want := protowire.AppendBytes(protowire.AppendTag([]byte("head"), 70, protowire.BytesType), inner)
			got := appendMessage([]byte("head"), 70, func(b []byte) []byte {
				return appendMessage(append(b, "before"...), 3, func(b []byte) []byte { return append(b, filling...) })
			})
			if !bytes.Equal(got, want) {
				t.Errorf("message = %d bytes, want %d with the same content", len(got), len(want))
			}
		})
	}
}
