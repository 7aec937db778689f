package preface

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// asker gives an instance's part of the preface of the peer API.
func asker(raftID, secret string) *Preface {
	return &Preface{Purpose: Questions, RaftID: raftID, Secret: []byte(secret)}
}

// inCluster gives p with a cluster id.
func inCluster(id string, p *Preface) *Preface {
	p.ClusterID = func() string { return id }
	return p
}

func TestThePrefaceOfTheAPIChecksOnlyTheSecret(t *testing.T) {
	tests := map[string]struct {
		dialer, dialled *Preface
		err             error
		dialledErr      error // where it is another one
		dialerSays      []string
	}{
		"the same secret":                 {dialer: asker("a", "s"), dialled: asker("b", "s")},
		"an instance itself":              {dialer: asker("a", "s"), dialled: asker("a", "s")},
		"different clusters":              {dialer: inCluster("c1", asker("a", "s")), dialled: inCluster("c2", asker("b", "s"))},
		"different secrets":               {dialer: asker("a", "s1"), dialled: asker("b", "s2"), err: ErrWrongSecret, dialledErr: ErrNoProof, dialerSays: []string{"raft secret", `"b"`}},
		"a dialer that wants raft":        {dialer: side("a", "c", "s"), dialled: asker("b", "s"), err: ErrWrongSecret, dialledErr: ErrNoProof},
		"a dialled side that serves raft": {dialer: asker("a", "s"), dialled: side("b", "c", "s"), err: ErrWrongSecret, dialledErr: ErrNoProof},
		"a secret on one side only":       {dialer: asker("a", "s"), dialled: asker("b", ""), err: ErrNoSecret},
		"a secret on the other's only":    {dialer: asker("a", ""), dialled: asker("b", "s"), err: ErrNoSecret},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dialErr, acceptErr := meet(t, test.dialer, test.dialled)
			mustSay(t, "the dialer", dialErr, test.err, test.dialerSays)
			mustSay(t, "the dialled one", acceptErr, cmp.Or(test.dialledErr, test.err), nil)
		})
	}
}

// Two roles for raft and two for the API make four different proofs.
func TestProofsOfDifferentPurposesDiffer(t *testing.T) {
	raft, question := side("a", "c", "s"), inCluster("c", asker("a", "s"))
	dialer, dialled := raft.hello(), side("b", "c", "s").hello()
	seen := map[string]string{}
	for name, p := range map[string]*Preface{"raft": raft, "questions": question} {
		for who, role := range map[string]byte{"dialer": roleDialer, "dialled": roleDialled} {
			proof := string(p.proof(role, dialer, dialled))
			if other, known := seen[proof]; known {
				t.Errorf("the proof of the %s of %s equals that of the %s", who, name, other)
			}
			seen[proof] = who + " of " + name
		}
	}
}

func TestARequestWithoutAPrefaceIsRefusedWithAReason(t *testing.T) {
	out, in := connected(t)
	accepting := make(chan error, 1)
	go func() {
		accepting <- asker("b", "s").Accept(in)
		in.CloseWrite()
	}()
	if _, err := io.WriteString(out, "GET /metadata HTTP/1.1\r\nHost: b:8008\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(out), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusForbidden || !strings.Contains(string(body), `"code":"secret_required"`) {
		t.Errorf("answer = %d %s, %v, want 403 secret_required", answer.StatusCode, body, err)
	}
	if err := <-accepting; !errors.Is(err, ErrOtherVersion) {
		t.Errorf("error = %v, want %v", err, ErrOtherVersion)
	}
}

func TestAnAnswerWithoutAPrefaceIsRefused(t *testing.T) {
	out, in := connected(t)
	if _, err := io.WriteString(in, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request"); err != nil {
		t.Fatal(err)
	}
	if err := asker("a", "s").dials(out); !errors.Is(err, ErrNoSecret) {
		t.Errorf("error = %v, want %v", err, ErrNoSecret)
	}
}
