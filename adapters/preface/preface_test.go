package preface

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// patience bounds every wait of a test; it is reached only when something is
// wrong.
const patience = 20 * time.Second

// side gives an instance's part of the preface.
func side(raftID, clusterID, secret string) *Preface {
	return &Preface{RaftID: raftID, ClusterID: func() string { return clusterID }, Secret: []byte(secret)}
}

// dials is Dial for who does not mind what the connection is good for.
func (p *Preface) dials(conn net.Conn) error {
	_, err := p.Dial(conn)
	return err
}

// connected gives the two ends of a TCP connection, bounded by patience.
func connected(tb testing.TB) (dialer, dialled *net.TCPConn) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	out, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { out.Close() })
	in, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { in.Close() })
	deadline := time.Now().Add(patience)
	if err := errors.Join(out.SetDeadline(deadline), in.SetDeadline(deadline)); err != nil {
		tb.Fatal(err)
	}
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

// meet lets one instance dial another; each hangs up on an error.
func meet(tb testing.TB, dialer, dialled *Preface) (dialErr, acceptErr error) {
	tb.Helper()
	out, in := connected(tb)
	accepting := make(chan error, 1)
	go func() {
		err := dialled.Accept(in)
		if err != nil {
			in.Close()
		}
		accepting <- err
	}()
	if dialErr = dialer.dials(out); dialErr != nil {
		out.Close()
	}
	return dialErr, <-accepting
}

func TestThePrefaceChecksClusterIDAndSecret(t *testing.T) {
	tests := map[string]struct {
		dialer, dialled *Preface
		err             error
		dialledErr      error // where it is another one
		dialerSays      []string
		dialledSays     []string
	}{
		"two of one cluster":                 {dialer: side("a", "c", ""), dialled: side("b", "c", "")},
		"two of one cluster with one secret": {dialer: side("a", "c", "s"), dialled: side("b", "c", "s")},
		"one who waits to be added is dialled": {
			dialer: side("a", "c", "s"), dialled: side("b", "", "s")},
		"one who waits to be added dials": {
			dialer: side("a", "", ""), dialled: side("b", "c", "")},
		"two who wait to be added": {
			dialer: side("a", "", ""), dialled: side("b", "", "")},
		"ids of the greatest length": {
			dialer: side(strings.Repeat("a", 128), "c", ""), dialled: side(strings.Repeat("b", 128), "c", "")},

		"two of different clusters": {
			dialer: side("a", "c1", "s"), dialled: side("b", "c2", "s"), err: ErrOtherCluster,
			dialerSays:  []string{"another raft cluster", `"a" of cluster "c1"`, `"b" of cluster "c2"`},
			dialledSays: []string{"another raft cluster", `"a" of cluster "c1"`, `"b" of cluster "c2"`},
		},
		"different secrets": {
			dialer: side("a", "c", "s1"), dialled: side("b", "c", "s2"), err: ErrWrongSecret, dialledErr: ErrNoProof,
			dialerSays:  []string{"raft secret", `"b"`},
			dialledSays: []string{"raft secret", `"a"`},
		},
		"a secret on the dialer's side only": {
			dialer: side("a", "c", "s"), dialled: side("b", "c", ""), err: ErrNoSecret,
			dialerSays:  []string{"one side has a raft secret", "missing there", `"b"`},
			dialledSays: []string{"one side has a raft secret", "missing here", `"a"`},
		},
		"a secret on the dialled side only": {
			dialer: side("a", "c", ""), dialled: side("b", "c", "s"), err: ErrNoSecret,
			dialerSays:  []string{"one side has a raft secret", "missing here", `"b"`},
			dialledSays: []string{"one side has a raft secret", "missing there", `"a"`},
		},
		"two of one raft id, or one who reached itself": {
			dialer: side("a", "c", "s"), dialled: side("a", "c", "s"), err: ErrOwnID,
			dialerSays:  []string{"same raft id"},
			dialledSays: []string{"same raft id"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dialErr, acceptErr := meet(t, test.dialer, test.dialled)
			mustSay(t, "the dialer", dialErr, test.err, test.dialerSays)
			mustSay(t, "the dialled one", acceptErr, cmp.Or(test.dialledErr, test.err), test.dialledSays)
		})
	}
}

func mustSay(t *testing.T, who string, err, want error, words []string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", who, err, want)
		return
	}
	if err == nil {
		return
	}
	for _, word := range words {
		if strings.Count(err.Error(), word) != 1 {
			t.Errorf("%s does not say %q once: %v", who, word, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%s needs more than a line: %v", who, err)
	}
}

// A later version may look different behind its nonce, and still both sides are
// told what is wrong.
func TestAnotherVersionIsReportedToBothSides(t *testing.T) {
	later := side("later", "c", "").hello()
	later.version = prefaceVersion + 1
	bytesOfLater := append(later.encode(), "what no earlier version understands"...)

	t.Run("it is dialled", func(t *testing.T) {
		out, in := connected(t)
		go func() {
			defer in.Close()
			_, _ = io.ReadFull(in, make([]byte, len(side("a", "c", "").hello().encode())))
			_, _ = in.Write(bytesOfLater)
		}()
		mustSay(t, "the dialer", side("a", "c", "").dials(out), ErrOtherVersion, []string{"there is version 2, here is version 1"})
	})
	t.Run("it dials", func(t *testing.T) {
		out, in := connected(t)
		if _, err := out.Write(bytesOfLater); err != nil {
			t.Fatal(err)
		}
		mustSay(t, "the dialled one", side("b", "c", "").Accept(in), ErrOtherVersion, []string{"there is version 2, here is version 1"})
		in.Close()
		answer, err := readHello(out)
		if err != nil || answer.verdict != otherVersion || answer.version != prefaceVersion {
			t.Errorf("it is answered with version %d, verdict %d, error %v", answer.version, answer.verdict, err)
		}
	})
	t.Run("it asks", func(t *testing.T) {
		out, in := connected(t)
		if _, err := out.Write(bytesOfLater); err != nil {
			t.Fatal(err)
		}
		asked := side("b", "c", "s")
		asked.Purpose = Questions
		mustSay(t, "the one who is asked", asked.Accept(in), ErrOtherVersion, []string{"there is version 2, here is version 1"})
		in.Close()
		if answer, err := io.ReadAll(out); err != nil || string(answer) != inHTTP {
			t.Errorf("it is answered with %q, %v", answer, err)
		}
	})
	t.Run("it refuses in a way that this one does not know", func(t *testing.T) {
		out, in := connected(t)
		refusal := side("b", "c", "").hello()
		refusal.verdict = 99
		if _, err := in.Write(refusal.encode()); err != nil {
			t.Fatal(err)
		}
		mustSay(t, "the dialer", side("a", "c", "").dials(out), ErrOtherVersion, []string{"verdict 99"})
	})
}

// recorder keeps what went through a connection.
type recorder struct {
	net.Conn
	received, sent bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.received.Write(p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) {
	r.sent.Write(p)
	return r.Conn.Write(p)
}

// overheard gives all that two sides with one secret said to each other.
func overheard(t *testing.T, dialer, dialled *Preface) (byDialer, byDialled []byte) {
	t.Helper()
	out, in := connected(t)
	accepting := make(chan error, 1)
	go func() { accepting <- dialled.Accept(in) }()
	tap := &recorder{Conn: out}
	if err := errors.Join(dialer.dials(tap), <-accepting); err != nil {
		t.Fatal(err)
	}
	return tap.sent.Bytes(), tap.received.Bytes()
}

func TestReplayedBytesProveNothing(t *testing.T) {
	a, b := side("a", "c", "s"), side("b", "c", "s")
	byDialer, byDialled := overheard(t, a, b)
	t.Run("the dialer's words, replayed", func(t *testing.T) {
		out, in := connected(t)
		if _, err := out.Write(byDialer); err != nil {
			t.Fatal(err)
		}
		if err := b.Accept(in); !errors.Is(err, ErrWrongSecret) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("the dialled one's words, replayed", func(t *testing.T) {
		out, in := connected(t)
		if _, err := in.Write(byDialled); err != nil {
			t.Fatal(err)
		}
		if err := a.dials(out); !errors.Is(err, ErrWrongSecret) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAProofSentBackToItsAuthorProvesNothing(t *testing.T) {
	t.Run("the dialled one's, sent back to it", func(t *testing.T) {
		out, in := connected(t)
		accepting := make(chan error, 1)
		go func() { accepting <- side("b", "c", "s").Accept(in) }()
		stranger := side("a", "c", "any").hello()
		if _, err := out.Write(stranger.encode()); err != nil {
			t.Fatal(err)
		}
		if _, err := readHello(out); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(out, out, proofSize); err != nil {
			t.Fatal(err)
		}
		if err := <-accepting; !errors.Is(err, ErrWrongSecret) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("the dialer's words, all sent back to it", func(t *testing.T) {
		out, in := connected(t)
		go func() { _, _ = io.Copy(in, in) }()
		if err := side("a", "c", "s").dials(out); !errors.Is(err, ErrOwnID) {
			t.Errorf("error %v", err)
		}
	})
	// A stranger whom an instance dials needs nobody else to answer for it than
	// that instance.
	t.Run("the dialer's, made by itself when it is dialled meanwhile", func(t *testing.T) {
		a := side("a", "c", "s")
		out, toStranger := connected(t)
		fromStranger, in := connected(t)
		go func() { _, _ = io.Copy(fromStranger, toStranger) }()
		go func() { _, _ = io.Copy(toStranger, fromStranger) }()
		accepting := make(chan error, 1)
		go func() { accepting <- a.Accept(in) }()
		if err := a.dials(out); !errors.Is(err, ErrOwnID) {
			t.Errorf("it dials itself: %v", err)
		}
		if err := <-accepting; !errors.Is(err, ErrOwnID) {
			t.Errorf("it is dialled by itself: %v", err)
		}
	})
}

// Every single bit of both hellos is covered by the proofs.
func TestAProofCoversEveryFieldOfBothHellos(t *testing.T) {
	p := side("a", "c", "s")
	dialer, dialled := side("a", "c", "s").hello(), side("b", "c", "s").hello()
	proof := p.proof(roleDialer, dialer, dialled)
	changes := map[string]func(h *hello){
		"version": func(h *hello) { h.version++ }, "verdict": func(h *hello) { h.verdict++ },
		"nonce": func(h *hello) { h.nonce[31]++ }, "cluster": func(h *hello) { h.clusterID = "d" },
		"raft id": func(h *hello) { h.raftID = "d" }, "whether it proves": func(h *hello) { h.proves = false },
		"where one id ends": func(h *hello) { h.clusterID, h.raftID = h.clusterID+h.raftID, "" },
	}
	for name, change := range changes {
		for who, h := range map[string]*hello{"dialer": &dialer, "dialled": &dialled} {
			before := *h
			change(h)
			if bytes.Equal(p.proof(roleDialer, dialer, dialled), proof) {
				t.Errorf("%s of the %s may be anything", name, who)
			}
			*h = before
		}
	}
	if bytes.Equal(p.proof(roleDialled, dialer, dialled), proof) {
		t.Error("one role's proof does for the other")
	}
}

// What comes right behind the preface belongs to raft.
func TestThePrefaceReadsNothingBeyondItsEnd(t *testing.T) {
	for name, secret := range map[string]string{"with a secret": "s", "without a secret": ""} {
		t.Run(name, func(t *testing.T) {
			const rpc = "the first bytes of an RPC"
			out, in := connected(t)
			accepting := make(chan error, 1)
			go func() {
				err := side("b", "c", secret).Accept(in)
				if err == nil {
					_, err = io.WriteString(in, rpc)
				}
				accepting <- err
			}()
			err := side("a", "c", secret).dials(out)
			if err == nil {
				_, err = io.WriteString(out, rpc)
			}
			if err := errors.Join(err, <-accepting); err != nil {
				t.Fatal(err)
			}
			for who, conn := range map[string]*net.TCPConn{"dialer": out, "dialled one": in} {
				got := make([]byte, len(rpc))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != rpc {
					t.Errorf("the %s reads %q, %v", who, got, err)
				}
			}
		})
	}
}

// Whatever the other side stops at, the deadline ends it.
func TestSilenceIsBoundedByTheDeadline(t *testing.T) {
	a, b := side("a", "c", "s"), side("b", "c", "s")
	byDialer, byDialled := overheard(t, a, b)
	tests := map[string]struct {
		words   []byte
		preface func(net.Conn) error
	}{
		"the dialer falls silent":      {byDialer, b.Accept},
		"the dialled one falls silent": {byDialled, a.dials},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for said := range test.words {
				synctest.Test(t, func(t *testing.T) {
					own, other := net.Pipe()
					defer own.Close()
					defer other.Close()
					go func() { _, _ = io.Copy(io.Discard, other) }()
					go func() { _, _ = other.Write(test.words[:said]) }()
					begin := time.Now()
					if err := own.SetDeadline(begin.Add(2 * time.Second)); err != nil {
						t.Fatal(err)
					}
					if err := test.preface(own); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("after %d bytes: %v", said, err)
					}
					if took := time.Since(begin); took != 2*time.Second {
						t.Errorf("after %d bytes it waited %v", said, took)
					}
				})
			}
		})
	}
}

func TestAPeerThatHangsUpIsAnError(t *testing.T) {
	a, b := side("a", "c", "s"), side("b", "c", "s")
	byDialer, byDialled := overheard(t, a, b)
	for said := range byDialer {
		out, in := connected(t)
		_, _ = out.Write(byDialer[:said])
		out.CloseWrite()
		if err := b.Accept(in); err == nil {
			t.Errorf("a dialer that hung up after %d bytes was let in", said)
		}
	}
	for said := range byDialled {
		out, in := connected(t)
		_, _ = in.Write(byDialled[:said])
		in.CloseWrite()
		if err := a.dials(out); err == nil {
			t.Errorf("one that hung up after %d bytes was trusted", said)
		}
	}
}

func TestAnInstanceInQuarantineTalksOnlyAsANonvoter(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	for _, secret := range []string{"", "s"} {
		for name, test := range map[string]struct {
			trusted    func() bool
			nonvoter   bool
			restricted bool
			err        error
		}{
			"in quarantine, to a nonvoter":     {trusted: no, nonvoter: true, restricted: true},
			"in quarantine, to a voter":        {trusted: no, err: ErrQuarantined},
			"not in quarantine, to a nonvoter": {trusted: yes, nonvoter: true},
			"not in quarantine, to a voter":    {trusted: yes},
		} {
			t.Run(name+", with the secret "+secret, func(t *testing.T) {
				dialer, dialled := side("a", "c", secret), side("b", "", secret)
				dialer.Expects, dialled.Trusted = "b", test.trusted
				dialer.Nonvoter = func(id string) bool { return id == "b" && test.nonvoter }
				out, in := connected(t)
				accepting := make(chan error, 1)
				go func() { accepting <- dialled.Accept(in) }()
				restricted, err := dialer.Dial(out)
				mustSay(t, "the dialer", err, test.err, []string{"in quarantine", `"b"`})
				mustSay(t, "the dialled one", <-accepting, test.err, []string{"in quarantine", `"a"`})
				if restricted != test.restricted {
					t.Errorf("the connection is restricted: %v", restricted)
				}
			})
		}
	}
}

// Nobody is told that the one it dials is in quarantine unless it has said that it knows.
func TestOnlyADialerThatKnowsANonvoterReachesQuarantine(t *testing.T) {
	dialer, stranger := side("a", "c", ""), side("b", "c", "").hello()
	stranger.verdict = toNonvoter
	out, in := connected(t)
	if _, err := in.Write(stranger.encode()); err != nil {
		t.Fatal(err)
	}
	if restricted, err := dialer.Dial(out); err == nil || restricted {
		t.Errorf("restricted: %t, %v", restricted, err)
	}
}

func TestADialerRefusesAnotherRaftIDThanExpected(t *testing.T) {
	for expected, want := range map[string]error{"": nil, "b": nil, "n": ErrOtherID} {
		for _, secret := range []string{"", "s"} {
			dialer := side("a", "c", secret)
			dialer.Expects = expected
			err, accepted := meet(t, dialer, side("b", "c", secret))
			mustSay(t, "the dialer", err, want, []string{`"b"`, `"n"`})
			if refused := accepted != nil; refused != (want != nil && secret != "") {
				t.Errorf("the dialled one, with the secret %q: %v", secret, accepted)
			}
		}
	}
}

// Who is turned away hears no proof, which it could try secrets on.
func TestARefusedDialerGetsNoProof(t *testing.T) {
	dialer, dialled := side("a", "c1", "s"), side("b", "c2", "s")
	out, in := connected(t)
	if _, err := out.Write(dialer.hello().encode()); err != nil {
		t.Fatal(err)
	}
	if err := dialled.Accept(in); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("got %v", err)
	}
	in.Close()
	if said, err := io.ReadAll(out); err != nil || len(said) != len(dialled.hello().encode()) {
		t.Errorf("it is told %d bytes, and a hello has %d: %v", len(said), len(dialled.hello().encode()), err)
	}
}

// It can't say yet whether it is in quarantine, so it does not say that it is.
func TestAStartingInstanceSaysSo(t *testing.T) {
	for name, nonvoter := range map[string]bool{"to who has it as a voter": false, "to who has it as a nonvoter": true} {
		t.Run(name, func(t *testing.T) {
			dialer, dialled := side("a", "c", ""), side("b", "", "")
			dialer.Nonvoter = func(string) bool { return nonvoter }
			dialled.Starting = func() bool { return true }
			dialled.Trusted = func() bool { return false }
			dialErr, acceptErr := meet(t, dialer, dialled)
			mustSay(t, "the dialer", dialErr, ErrStarting, []string{"is starting", `"b"`})
			mustSay(t, "the dialled one", acceptErr, ErrStarting, []string{"is starting", `"a"`})
			dialled.Starting, dialled.Trusted = func() bool { return false }, nil
			dialErr, acceptErr = meet(t, dialer, dialled)
			mustSay(t, "later, the dialer", dialErr, nil, nil)
			mustSay(t, "later, the dialled one", acceptErr, nil, nil)
		})
	}
}

// Whose an instance is that did not know is decided before anything else is read.
func TestABlankInstanceIsAdoptedByAnAcceptedDialer(t *testing.T) {
	taken := errors.New("it is taken")
	for name, test := range map[string]struct {
		dialer, dialled *Preface
		answer          error
		asked           string
		err             error
	}{
		"by one of a cluster":                {dialer: side("a", "c", ""), dialled: side("b", "", ""), asked: "c"},
		"by one that knows the secret":       {dialer: side("a", "c", "s"), dialled: side("b", "", "s"), asked: "c"},
		"by none that was too late":          {dialer: side("a", "c", "s"), dialled: side("b", "", "s"), asked: "c", answer: taken, err: taken},
		"by none that knows no cluster":      {dialer: side("a", "", ""), dialled: side("b", "", "")},
		"by none that knows another secret":  {dialer: side("a", "c", "s1"), dialled: side("b", "", "s2"), err: ErrNoProof},
		"by none whose id can't be one":      {dialer: side("a", "\xff\n", ""), dialled: side("b", "", ""), err: errNoID},
		"nor by who has no id":               {dialer: side("a b", "c", ""), dialled: side("b", "", ""), err: errNoID},
		"nor where it belongs to that one":   {dialer: side("a", "c", ""), dialled: side("b", "c", "")},
		"nor where it belongs to some other": {dialer: side("a", "c", ""), dialled: side("b", "d", ""), err: ErrOtherCluster},
	} {
		t.Run(name, func(t *testing.T) {
			asked := ""
			test.dialled.Adopt = func(id string) error {
				asked = id
				return test.answer
			}
			_, err := meet(t, test.dialer, test.dialled)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || asked != test.asked {
				t.Errorf("adopted by %q, %v", asked, err)
			}
		})
	}
}
