package consensus

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

func TestEntriesOfASuccessorAreNotSent(t *testing.T) {
	errTrouble := errors.New("trouble")
	for name, test := range map[string]struct {
		entries []*raft.Log
		trouble error
		want    error
	}{
		"none":              {nil, nil, nil},
		"of this term":      {[]*raft.Log{{Index: 1, Term: 2}, {Index: 2, Term: 3}}, nil, nil},
		"of a later term":   {[]*raft.Log{{Index: 1, Term: 3}, {Index: 2, Term: 4}}, nil, errDeposed},
		"while in trouble":  {[]*raft.Log{{Index: 1, Term: 3}}, errTrouble, errTrouble},
		"none, in trouble":  {nil, errTrouble, errTrouble},
		"of an earlier one": {[]*raft.Log{{Index: 1, Term: 2}}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mayNotSend(&raft.AppendEntriesRequest{Term: 3, Entries: test.entries}, func() error { return test.trouble })
			if got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
