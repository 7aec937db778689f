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

// dials is Dial without its first result.
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
		"same cluster":                 {dialer: side("a", "c", ""), dialled: side("b", "c", "")},
		"same cluster and same secret": {dialer: side("a", "c", "s"), dialled: side("b", "c", "s")},
		"the dialled one waits to be added": {
			dialer: side("a", "c", "s"), dialled: side("b", "", "s")},
		"the dialer waits to be added": {
			dialer: side("a", "", ""), dialled: side("b", "c", "")},
		"both wait to be added": {
			dialer: side("a", "", ""), dialled: side("b", "", "")},
		"the longest ids": {
			dialer: side(strings.Repeat("a", 128), "c", ""), dialled: side(strings.Repeat("b", 128), "c", "")},

		"different clusters": {
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
		"the same raft id": {
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
		t.Errorf("error of %s = %v, want %v", who, err, want)
		return
	}
	if err == nil {
		return
	}
	for _, word := range words {
		if strings.Count(err.Error(), word) != 1 {
			t.Errorf("error of %s does not contain %q once: %v", who, word, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error of %s has more than one line: %v", who, err)
	}
}

// A later version may differ in everything after its nonce. Both sides must report the
// difference all the same.
func TestAnotherVersionIsReportedToBothSides(t *testing.T) {
	later := side("later", "c", "").hello()
	later.version = prefaceVersion + 1
	bytesOfLater := append(later.encode(), "what no earlier version understands"...)

	t.Run("the later version is dialled", func(t *testing.T) {
		out, in := connected(t)
		go func() {
			defer in.Close()
			_, _ = io.ReadFull(in, make([]byte, len(side("a", "c", "").hello().encode())))
			_, _ = in.Write(bytesOfLater)
		}()
		mustSay(t, "the dialer", side("a", "c", "").dials(out), ErrOtherVersion, []string{"there is version 2, here is version 1"})
	})
	t.Run("the later version dials", func(t *testing.T) {
		out, in := connected(t)
		if _, err := out.Write(bytesOfLater); err != nil {
			t.Fatal(err)
		}
		mustSay(t, "the dialled one", side("b", "c", "").Accept(in), ErrOtherVersion, []string{"there is version 2, here is version 1"})
		in.Close()
		answer, err := readHello(out)
		if err != nil || answer.verdict != otherVersion || answer.version != prefaceVersion {
			t.Errorf("answer = version %d, verdict %d, error %v, want version %d, verdict %d", answer.version, answer.verdict, err, prefaceVersion, otherVersion)
		}
	})
	t.Run("the later version sends a request", func(t *testing.T) {
		out, in := connected(t)
		if _, err := out.Write(bytesOfLater); err != nil {
			t.Fatal(err)
		}
		asked := side("b", "c", "s")
		asked.Purpose = Questions
		mustSay(t, "the one who is asked", asked.Accept(in), ErrOtherVersion, []string{"there is version 2, here is version 1"})
		in.Close()
		if answer, err := io.ReadAll(out); err != nil || string(answer) != inHTTP {
			t.Errorf("answer = %q, %v, want %q", answer, err, inHTTP)
		}
	})
	t.Run("the later version refuses with an unknown verdict", func(t *testing.T) {
		out, in := connected(t)
		refusal := side("b", "c", "").hello()
		refusal.verdict = 99
		if _, err := in.Write(refusal.encode()); err != nil {
			t.Fatal(err)
		}
		mustSay(t, "the dialer", side("a", "c", "").dials(out), ErrOtherVersion, []string{"verdict 99"})
	})
}

// recorder records the bytes read from and written to a connection.
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

// overheard gives everything that two sides with one secret sent to each other.
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
	t.Run("replayed bytes of the dialer", func(t *testing.T) {
		out, in := connected(t)
		if _, err := out.Write(byDialer); err != nil {
			t.Fatal(err)
		}
		if err := b.Accept(in); !errors.Is(err, ErrWrongSecret) {
			t.Errorf("error = %v, want %v", err, ErrWrongSecret)
		}
	})
	t.Run("replayed bytes of the dialled side", func(t *testing.T) {
		out, in := connected(t)
		if _, err := in.Write(byDialled); err != nil {
			t.Fatal(err)
		}
		if err := a.dials(out); !errors.Is(err, ErrWrongSecret) {
			t.Errorf("error = %v, want %v", err, ErrWrongSecret)
		}
	})
}

func TestAProofSentBackToItsAuthorProvesNothing(t *testing.T) {
	t.Run("the proof of the dialled side", func(t *testing.T) {
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
			t.Errorf("error = %v, want %v", err, ErrWrongSecret)
		}
	})
	t.Run("all bytes of the dialer", func(t *testing.T) {
		out, in := connected(t)
		go func() { _, _ = io.Copy(in, in) }()
		if err := side("a", "c", "s").dials(out); !errors.Is(err, ErrOwnID) {
			t.Errorf("error = %v, want %v", err, ErrOwnID)
		}
	})
	// A stranger that an instance dials could dial that instance at the same time, and
	// let it make the proof.
	t.Run("a proof that the dialer makes when it is dialled meanwhile", func(t *testing.T) {
		a := side("a", "c", "s")
		out, toStranger := connected(t)
		fromStranger, in := connected(t)
		go func() { _, _ = io.Copy(fromStranger, toStranger) }()
		go func() { _, _ = io.Copy(toStranger, fromStranger) }()
		accepting := make(chan error, 1)
		go func() { accepting <- a.Accept(in) }()
		if err := a.dials(out); !errors.Is(err, ErrOwnID) {
			t.Errorf("error of the dialer = %v, want %v", err, ErrOwnID)
		}
		if err := <-accepting; !errors.Is(err, ErrOwnID) {
			t.Errorf("error of the dialled side = %v, want %v", err, ErrOwnID)
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
		"the end of an id": func(h *hello) { h.clusterID, h.raftID = h.clusterID+h.raftID, "" },
	}
	for name, change := range changes {
		for who, h := range map[string]*hello{"dialer": &dialer, "dialled": &dialled} {
			before := *h
			change(h)
			if bytes.Equal(p.proof(roleDialer, dialer, dialled), proof) {
				t.Errorf("the proof does not cover the %s of the %s", name, who)
			}
			*h = before
		}
	}
	if bytes.Equal(p.proof(roleDialled, dialer, dialled), proof) {
		t.Error("the proof of one role is accepted for the other")
	}
}

// The bytes right behind the preface belong to raft.
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
					t.Errorf("the %s reads %q, %v, want %q", who, got, err, rpc)
				}
			}
		})
	}
}

// Wherever the other side stops sending, the deadline ends the preface.
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
						t.Errorf("error after %d bytes = %v, want the deadline", said, err)
					}
					if took := time.Since(begin); took != 2*time.Second {
						t.Errorf("wait after %d bytes = %v, want 2s", said, took)
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
			t.Errorf("a dialer that hung up after %d bytes was accepted", said)
		}
	}
	for said := range byDialled {
		out, in := connected(t)
		_, _ = in.Write(byDialled[:said])
		in.CloseWrite()
		if err := a.dials(out); err == nil {
			t.Errorf("a peer that hung up after %d bytes was accepted", said)
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
					t.Errorf("restricted = %v, want %v", restricted, test.restricted)
				}
			})
		}
	}
}

// The dialled side says that it is in quarantine only to a dialer that knows it as a
// nonvoter.
func TestOnlyADialerThatKnowsANonvoterReachesQuarantine(t *testing.T) {
	dialer, stranger := side("a", "c", ""), side("b", "c", "").hello()
	stranger.verdict = toNonvoter
	out, in := connected(t)
	if _, err := in.Write(stranger.encode()); err != nil {
		t.Fatal(err)
	}
	if restricted, err := dialer.Dial(out); err == nil || restricted {
		t.Errorf("Dial = restricted %t, %v, want an error", restricted, err)
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
				t.Errorf("error of the dialled side with the secret %q = %v, want one: %v", secret, accepted, want != nil && secret != "")
			}
		}
	}
}

// A refused dialer must get no proof, on which it could try out secrets.
func TestARefusedDialerGetsNoProof(t *testing.T) {
	dialer, dialled := side("a", "c1", "s"), side("b", "c2", "s")
	out, in := connected(t)
	if _, err := out.Write(dialer.hello().encode()); err != nil {
		t.Fatal(err)
	}
	if err := dialled.Accept(in); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("error = %v, want %v", err, ErrOtherCluster)
	}
	in.Close()
	if said, err := io.ReadAll(out); err != nil || len(said) != len(dialled.hello().encode()) {
		t.Errorf("bytes sent to a refused dialer = %d, %v, want only the %d of a hello", len(said), err, len(dialled.hello().encode()))
	}
}

// An instance that is starting does not know yet whether it is in quarantine.
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

// A blank instance learns its cluster before anything else is read.
func TestABlankInstanceIsAdoptedByAnAcceptedDialer(t *testing.T) {
	taken := errors.New("the instance has a cluster already")
	for name, test := range map[string]struct {
		dialer, dialled *Preface
		answer          error
		asked           string
		err             error
	}{
		"by a member of a cluster":                   {dialer: side("a", "c", ""), dialled: side("b", "", ""), asked: "c"},
		"by a member that knows the secret":          {dialer: side("a", "c", "s"), dialled: side("b", "", "s"), asked: "c"},
		"not by a dialer that is too late":           {dialer: side("a", "c", "s"), dialled: side("b", "", "s"), asked: "c", answer: taken, err: taken},
		"not by a dialer without a cluster":          {dialer: side("a", "", ""), dialled: side("b", "", "")},
		"not by a dialer with another secret":        {dialer: side("a", "c", "s1"), dialled: side("b", "", "s2"), err: ErrNoProof},
		"not by a dialer with an invalid cluster id": {dialer: side("a", "\xff\n", ""), dialled: side("b", "", ""), err: errNoID},
		"not by a dialer with an invalid raft id":    {dialer: side("a b", "c", ""), dialled: side("b", "", ""), err: errNoID},
		"not if it belongs to this cluster":          {dialer: side("a", "c", ""), dialled: side("b", "c", "")},
		"not if it belongs to another cluster":       {dialer: side("a", "c", ""), dialled: side("b", "d", ""), err: ErrOtherCluster},
	} {
		t.Run(name, func(t *testing.T) {
			asked := ""
			test.dialled.Adopt = func(id string) error {
				asked = id
				return test.answer
			}
			_, err := meet(t, test.dialer, test.dialled)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || asked != test.asked {
				t.Errorf("adopted by %q, error %v, want %q, %v", asked, err, test.asked, test.err)
			}
		})
	}
}
