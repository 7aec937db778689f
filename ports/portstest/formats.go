package portstest

import (
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// FormatsSubject is a subject whose leader reads the format Own. The command Newer needs
// the format Needs, which is more than 1 and less than Own.
type FormatsSubject struct {
	Subject
	Newer      domain.Command
	Needs, Own int
}

// RunFormats examines what ports.Formats promises. Each test opens a subject of its
// own, with a follower, which open closes with tb.Cleanup.
func RunFormats(t *testing.T, open func(testing.TB) FormatsSubject) {
	tests := map[string]struct {
		told   []int // by the follower, one after the other
		shared int   // 0: what the leader reads
		refuse bool
	}{
		"who has not been heard of reads the first":      {nil, 1, true},
		"who does not say reads the first":               {[]int{0}, 1, true},
		"who says something impossible reads the first":  {[]int{-7}, 1, true},
		"who reads less holds the cluster back":          {[]int{1}, 1, true},
		"who has been upgraded does not":                 {[]int{1, 2}, 2, false},
		"who has been downgraded holds the cluster back": {[]int{3, 1}, 1, true},
		"who reads more does not change what this reads": {[]int{9}, 0, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			for _, format := range test.told {
				s.Leader.Formats.Heard(s.Follower.ID, format)
			}
			if test.shared == 0 {
				test.shared = s.Own
			}
			s.check(t, test.shared, test.refuse)
		})
	}
	t.Run("strangers do not count", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		s.Leader.Formats.Heard("stranger", 1)
		s.check(t, s.Own, false)
	})
	t.Run("who is silent may have read what is written", func(t *testing.T) {
		s := open(t)
		mustAdd(t, s.Leader.Membership, absentee(0))
		for _, heard := range []int{s.Own + 1, 1, s.Own} {
			s.Leader.Formats.Heard(s.Follower.ID, heard)
			if got, want := s.Leader.Formats.Written(), min(heard, s.Own); got != want {
				t.Errorf("format %d may be in the log, want %d", got, want)
			}
		}
	})
	t.Run("what is written stays so, whoever reads less", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		s.check(t, s.Own, false)
		s.Leader.Formats.Heard(s.Follower.ID, 1)
		if got := s.Leader.Formats.Written(); got != s.Needs {
			t.Errorf("format %d may be in the log, want %d", got, s.Needs)
		}
	})
	t.Run("a newcomer counts, and no more once it has left", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		mustAdd(t, s.Leader.Membership, absentee(0))
		s.check(t, 1, true)
		if err := s.Leader.Membership.Remove(within(t), absentee(0).ID); err != nil {
			t.Fatal(err)
		}
		s.check(t, s.Own, false)
	})
	t.Run("who comes back is asked again", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		mustAdd(t, s.Leader.Membership, absentee(0))
		s.Leader.Formats.Heard(absentee(0).ID, s.Own)
		s.check(t, s.Own, false)
		if err := s.Leader.Membership.Remove(within(t), absentee(0).ID); err != nil {
			t.Fatal(err)
		}
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		mustAdd(t, s.Leader.Membership, absentee(0))
		s.check(t, 1, true)
	})
}

// check examines the shared format, and whether Newer is refused.
func (s FormatsSubject) check(t *testing.T, shared int, refuse bool) {
	t.Helper()
	if got := s.Leader.Formats.Shared(); got != shared {
		t.Errorf("all read format %d, want %d", got, shared)
	}
	before, err := s.Leader.Registry.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Leader.Registry.Propose(within(t), s.Newer)
	var refusal *domain.Refusal
	if refused := errors.Is(err, ports.ErrUpgrading); refused != refuse || !refused && err != nil && !errors.As(err, &refusal) {
		t.Errorf("a change that takes format %d: %v", s.Needs, err)
	}
	after, err := s.Leader.Registry.Read(within(t))
	if err != nil || refuse && after.Revision() != before.Revision() {
		t.Errorf("revision %d was %d, %v", after.Revision(), before.Revision(), err)
	}
	// A command that every format has is never refused.
	if _, err := s.Leader.Registry.Propose(within(t), domain.Register{Node: cacheNode("plain", int(after.Revision())+1)}); err != nil {
		t.Errorf("a change that all can read: %v", err)
	}
}
