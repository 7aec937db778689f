package preface

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func FuzzPreface(f *testing.F) {
	a, b := side("a", "c", "s"), side("b", "c", "s")
	for _, h := range []hello{a.hello(), b.hello(), side("x", "", "").hello(), {version: prefaceVersion + 1}} {
		h.nonce = [nonceSize]byte{}
		f.Add(h.encode())
		f.Add(append(h.encode(), b.proof(roleDialled, a.hello(), h)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, secret := range []string{"", "s"} {
			mustSurvive(t, data, side("b", "c", secret).Accept)
			mustSurvive(t, data, side("a", "c", secret).dials)
		}
	})
}

// mustSurvive runs one side of the preface against a peer that sends data and then nothing.
func mustSurvive(t *testing.T, data []byte, preface func(net.Conn) error) {
	synctest.Test(t, func(t *testing.T) {
		own, other := net.Pipe()
		defer other.Close()
		go func() { _, _ = io.Copy(io.Discard, other) }()
		go func() { _, _ = other.Write(data) }()
		tap := &recorder{Conn: own}
		defer tap.Close()
		begin := time.Now()
		if err := tap.SetDeadline(begin.Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		err := preface(tap)
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the preface took %v, want at most 2s", took)
		}
		const longest = 2 + nonceSize + 2*256 + 1 + proofSize
		if tap.received.Len() > longest || tap.sent.Len() > longest {
			t.Errorf("read %d and wrote %d bytes, want at most %d", tap.received.Len(), tap.sent.Len(), longest)
		}
		if err != nil {
			return
		}
		taken := bytes.NewReader(tap.received.Bytes())
		h, err := readHello(taken)
		if err != nil || h.version != prefaceVersion {
			t.Errorf("accepted hello = %+v, %v, want one of version %d", h, err, prefaceVersion)
		}
		if h.proves || taken.Len() > 0 {
			t.Errorf("a made-up proof was accepted: %+v", h)
		}
	})
}
