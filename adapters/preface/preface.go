// Package preface is the handshake at the beginning of a connection between two
// instances. It refuses those of another cluster, with another protocol version, or
// without the secret. Both sides tell who they are, and prove that they know the
// secret if there is one. It never encrypts, and never reads what follows.
package preface

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// The dialer sends a hello. The other side answers with its own hello and, if a secret
// is set, its proof; then the dialer sends its proof. After a refusal the connection is
// closed.
//
//	hello: version (1) | verdict (1) | nonce (32) | cluster id (1 + n) | raft id (1 + n) | proof is to follow (1)
//	proof: HMAC-SHA-256 (32), keyed with the secret, of a role byte and both hellos
//
// The nonces make a proof valid for one connection only, and the role makes it valid
// for one direction of it.
const (
	prefaceVersion = 1
	nonceSize      = 32
	proofSize      = sha256.Size
)

// verdict is the answer of the dialled side to the dialer's hello.
type verdict byte

const (
	welcome verdict = iota
	otherVersion
	otherCluster
	otherSecret // one side has a secret, the other has none
	ownID       // both sides have the same raft id
	// inQuarantine: the dialled side is in quarantine, and accepts only dialers that have
	// it as a nonvoter.
	inQuarantine
	// toNonvoter is no refusal. From a dialer it means that the dialer has the other side
	// as a nonvoter; builds without quarantine ignore that. As the answer to such a
	// dialer it means that the dialled side is in quarantine, so that the connection is
	// valid only while it is a nonvoter.
	toNonvoter
	// starting: the dialled side is not ready yet, so try again. Builds that do not know
	// this verdict take it for one of another version.
	starting
)

// Why a connection is refused. Accept and Dial return one of these, the connection's
// error, or Adopt's.
var (
	// ErrOtherVersion: the other side has another version of the preface, or none.
	ErrOtherVersion = errors.New("the other side speaks another version of the raft port's protocol")
	// ErrOtherCluster: the two sides belong to different raft clusters.
	ErrOtherCluster = errors.New("the other side belongs to another raft cluster")
	// ErrOtherID: the instance that answers is not the one that Expects names.
	ErrOtherID = errors.New("another instance answers at this address")
	// ErrNoSecret: one side has a secret, and the other has none.
	ErrNoSecret = errors.New("one side has a raft secret and the other has none")
	// ErrOwnID: the other side has this side's raft id; it may be this instance itself.
	ErrOwnID = errors.New("the other side bears the same raft id")
	// ErrQuarantined: the dialled side is in quarantine, and the dialer does not have it
	// as a nonvoter.
	ErrQuarantined = errors.New("the dialled instance is in quarantine: it does not have the state of the cluster yet, so it does not vote, and takes entries only from a leader that has it as a nonvoter")
	// ErrStarting: the dialled side is not ready yet; try again.
	ErrStarting = errors.New("the dialled instance is starting, and has not read its data yet")
	// ErrWrongSecret: the other side's proof is wrong.
	ErrWrongSecret = errors.New("the other side does not know the raft secret")
	// ErrNoProof: the other side closed the connection instead of sending its proof.
	ErrNoProof = errors.New("the other side hung up instead of proving that it knows the raft secret")

	errNoID = errors.New("the other side says an id that can't be one")
)

// err returns the error of a verdict, for those to which refusal adds only the ids.
func (v verdict) err() error {
	switch v {
	case otherCluster:
		return ErrOtherCluster
	case otherSecret:
		return ErrNoSecret
	case ownID:
		return ErrOwnID
	case inQuarantine:
		return ErrQuarantined
	case starting:
		return ErrStarting
	}
	return fmt.Errorf("%w: unknown verdict %d", ErrOtherVersion, v)
}

// Purpose is the protocol that follows a preface. A proof for one is not valid for another.
type Purpose byte

const (
	// Raft is for members of one cluster, and instances that are to be members.
	Raft Purpose = iota
	// Questions (package peerapi) are for any instance that knows the secret. Those of
	// another cluster, and this instance itself, are not refused: who it is that answers
	// is the question.
	Questions
)

// Preface is one side of the handshake. Safe for concurrent use once its fields are set;
// its functions may be called from many goroutines at once.
type Preface struct {
	Purpose Purpose
	RaftID  string
	// ClusterID is called for every connection, because an instance that waits to be
	// added learns its cluster late. Nil, for Questions: not told.
	ClusterID func() string
	// Secret is what both sides prove to know; empty: nothing is proven.
	Secret []byte
	// Expects is the id of the instance that a dialer expects; empty: any.
	Expects string

	// Adopt is called with the cluster id of an accepted dialer, if this side belonged to
	// no cluster when it was dialled, before anything that follows is read. On an error
	// the connection is refused. It may be nil.
	Adopt func(clusterID string) error

	// Starting reports that this side is not ready to be dialled. Nil: it always is.
	Starting func() bool
	// Trusted reports whether the votes and acknowledgements of this side may count
	// (false: it is in quarantine). Nonvoter reports whether this side has the instance
	// with this id as a nonvoter. Nil: they may count; it has not.
	Trusted  func() bool
	Nonvoter func(id string) bool
}

type hello struct {
	version   byte
	verdict   verdict
	nonce     [nonceSize]byte
	clusterID string
	raftID    string
	proves    bool
}

func (p *Preface) hello() hello {
	h := hello{version: prefaceVersion, raftID: p.RaftID, proves: len(p.Secret) > 0}
	if p.ClusterID != nil {
		h.clusterID = p.ClusterID()
	}
	rand.Read(h.nonce[:]) // never fails
	return h
}

// judge compares two hellos. An instance without a cluster id is yet to be added, so it
// may talk to any cluster.
func (p *Preface) judge(own, others hello) verdict {
	members := p.Purpose == Raft
	switch {
	case own.version != others.version:
		return otherVersion
	case members && own.clusterID != "" && others.clusterID != "" && own.clusterID != others.clusterID:
		return otherCluster
	case members && own.raftID == others.raftID:
		// This instance itself may have been reached: at an address that was another's,
		// or through a stranger who relays its own messages to it.
		return ownID
	case own.proves != others.proves:
		return otherSecret
	}
	return welcome
}

// judgeDialer is judge for the dialled side, which may also be starting or in quarantine.
func (p *Preface) judgeDialer(own, others hello) verdict {
	v := p.judge(own, others)
	switch {
	case v != welcome:
		return v
	case p.Starting != nil && p.Starting():
		return starting
	case p.Trusted == nil, p.Trusted():
		return v
	case others.verdict == toNonvoter:
		return toNonvoter
	}
	return inQuarantine
}

// isWelcome reports whether a verdict of the dialled side lets the dialer in.
func (v verdict) isWelcome() bool { return v == welcome || v == toNonvoter }

// refusal returns the error for a verdict; nil for welcome.
func refusal(v verdict, own, others hello) error {
	switch v {
	case welcome:
		return nil
	case otherVersion:
		if others.version == httpVersion {
			return fmt.Errorf("preface: %w: it speaks HTTP at once", ErrNoSecret)
		}
		return fmt.Errorf("preface: %w: there is version %d, here is version %d", ErrOtherVersion, others.version, own.version)
	case otherSecret:
		where := "here"
		if own.proves {
			where = "there"
		}
		return fmt.Errorf("preface: %w: it is missing %s: there is %q, here is %q", ErrNoSecret, where, others.raftID, own.raftID)
	}
	return fmt.Errorf("preface: %w: there is %q of cluster %q, here is %q of cluster %q",
		v.err(), others.raftID, others.clusterID, own.raftID, own.clusterID)
}

// Dial carries out the preface on a connection that this side opened. The caller must
// bound it in time, with a deadline or by closing conn. If the other side is in quarantine
// the connection is restricted: it is valid only while this side has that one as a
// nonvoter.
func (p *Preface) Dial(conn net.Conn) (restricted bool, err error) {
	own := p.hello()
	if p.Nonvoter != nil && p.Nonvoter(p.Expects) {
		own.verdict = toNonvoter
	}
	if _, err := conn.Write(own.encode()); err != nil {
		return false, fmt.Errorf("preface: %w", err)
	}
	others, err := readHello(conn)
	if err != nil {
		return false, fmt.Errorf("preface: %w", err)
	}
	verdict := cmp.Or(p.judge(own, others), others.verdict)
	if restricted = verdict == toNonvoter && own.verdict == toNonvoter; restricted {
		verdict = welcome
	}
	if err := refusal(verdict, own, others); err != nil {
		return false, err
	}
	return restricted, p.proveTo(conn, own, others)
}

// proveTo is the second half of Dial: it checks the other side's id and proof, and sends
// its own proof.
func (p *Preface) proveTo(conn net.Conn, own, others hello) error {
	if p.Expects != "" && others.raftID != p.Expects {
		return fmt.Errorf("preface: %w: %q instead of %q", ErrOtherID, others.raftID, p.Expects)
	}
	if !own.proves {
		return nil
	}
	if err := p.checkProof(conn, roleDialled, own, others); err != nil {
		return fmt.Errorf("preface: %q: %w", others.raftID, err)
	}
	if _, err := conn.Write(p.proof(roleDialer, own, others)); err != nil {
		return fmt.Errorf("preface: %w", err)
	}
	return nil
}

// Accept carries out the preface on a connection that the other side opened. The caller
// must bound it in time, with a deadline or by closing conn.
func (p *Preface) Accept(conn net.Conn) error {
	others, err := readHello(conn)
	if err != nil {
		return fmt.Errorf("preface: %w", err)
	}
	own := p.hello()
	own.verdict = p.judgeDialer(own, others)
	if own.verdict == otherVersion && p.Purpose == Questions {
		refuseInHTTP(conn)
		return refusal(own.verdict, own, others)
	}
	answer := own.encode()
	if own.proves && own.verdict.isWelcome() {
		answer = append(answer, p.proof(roleDialled, others, own)...)
	}
	if _, err := conn.Write(answer); err != nil {
		return fmt.Errorf("preface: %w", err)
	}
	if !own.verdict.isWelcome() {
		return refusal(own.verdict, own, others)
	}
	if own.proves {
		if err := p.checkProof(conn, roleDialer, others, own); err != nil {
			return fmt.Errorf("preface: %q: %w", others.raftID, err)
		}
	}
	return p.adopted(own, others)
}

// adopted calls Adopt, if this side belonged to no cluster and the other one does.
func (p *Preface) adopted(own, others hello) error {
	if p.Adopt == nil || own.clusterID != "" || others.clusterID == "" {
		return nil
	}
	if err := p.Adopt(others.clusterID); err != nil {
		return fmt.Errorf("preface: %q: %w", others.raftID, err)
	}
	return nil
}

// An instance that serves Questions without a preface answers a hello in HTTP, if at all.
// Its version seems to be the first letter of that.
const httpVersion = 'H'

const inHTTP = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: 179\r\nConnection: close\r\n\r\n" +
	`{"type":"about:blank","title":"Forbidden","status":403,"code":"secret_required",` +
	`"detail":"this instance asks for the raft secret","error":"this instance asks for the raft secret"}`

// refuseInHTTP answers a dialer that began without a preface, most likely an instance
// without a secret that sent an HTTP request.
func refuseInHTTP(conn net.Conn) {
	_, _ = io.WriteString(conn, inHTTP)
	// Read the rest of the request: closing a connection with unread bytes resets it,
	// and the answer may be lost.
	_, _ = conn.Read(make([]byte, 4<<10))
}

const (
	roleDialer  byte = 1
	roleDialled byte = 2
	roles       byte = 2 // number of roles of each Purpose
)

func (p *Preface) proof(role byte, dialer, dialled hello) []byte {
	mac := hmac.New(sha256.New, p.Secret)
	mac.Write([]byte{role + roles*byte(p.Purpose)})
	mac.Write(dialer.encode())
	mac.Write(dialled.encode())
	return mac.Sum(nil)
}

func (p *Preface) checkProof(r io.Reader, role byte, dialer, dialled hello) error {
	given := make([]byte, proofSize)
	if _, err := io.ReadFull(r, given); errors.Is(err, io.EOF) {
		return ErrNoProof
	} else if err != nil {
		return err
	}
	if !hmac.Equal(given, p.proof(role, dialer, dialled)) {
		return ErrWrongSecret
	}
	return nil
}

func (h hello) encode() []byte {
	var b bytes.Buffer
	b.WriteByte(h.version)
	b.WriteByte(byte(h.verdict))
	b.Write(h.nonce[:])
	for _, id := range []string{h.clusterID, h.raftID} {
		b.WriteByte(byte(len(id)))
		b.WriteString(id)
	}
	if h.proves {
		b.WriteByte(1)
	} else {
		b.WriteByte(0)
	}
	return b.Bytes()
}

// readHello reads at most a few hundred bytes, and none after the hello.
func readHello(r io.Reader) (hello, error) {
	var h hello
	head := make([]byte, 2+nonceSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return hello{}, err
	}
	h.version, h.verdict = head[0], verdict(head[1])
	copy(h.nonce[:], head[2:])
	if h.version != prefaceVersion {
		// The rest may have another format, and is not needed.
		return h, nil
	}
	for _, id := range []*string{&h.clusterID, &h.raftID} {
		text, err := readShort(r)
		switch {
		case err != nil:
			return hello{}, err
		case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
			return hello{}, errNoID // ids are kept, and shown
		}
		*id = text
	}
	var proves [1]byte
	if _, err := io.ReadFull(r, proves[:]); err != nil {
		return hello{}, err
	}
	h.proves = proves[0] != 0
	return h, nil
}

func readShort(r io.Reader) (string, error) {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", err
	}
	text := make([]byte, length[0])
	_, err := io.ReadFull(r, text)
	return string(text), err
}
