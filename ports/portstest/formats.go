package portstest

import (
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// FormatsSubject is a subject whose leader reads the format Own. The command Newer needs the
// format Needs, which is more than 1 and less than Own.
type FormatsSubject struct {
	Subject
	Newer      domain.Command
	Needs, Own int
}

// RunFormats checks the contract of ports.Formats. Each test opens a subject of its own, with a
// follower, which open closes with tb.Cleanup.
func RunFormats(t *testing.T, open func(testing.TB) FormatsSubject) {
	tests := map[string]struct {
		told   []int // the formats that the follower reports, one after the other
		shared int   // 0: the format that the leader reads
		refuse bool
	}{
		"a follower that was not heard from reads format 1":           {nil, 1, true},
		"a follower that reports nothing reads format 1":              {[]int{0}, 1, true},
		"a follower that reports an impossible format reads format 1": {[]int{-7}, 1, true},
		"a follower that reads less holds the cluster back":           {[]int{1}, 1, true},
		"a follower that was upgraded does not hold it back":          {[]int{1, 2}, 2, false},
		"a follower that was downgraded holds the cluster back":       {[]int{3, 1}, 1, true},
		"a follower that reads more does not raise the shared format": {[]int{9}, 0, false},
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
	t.Run("an instance that is no member does not count", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		s.Leader.Formats.Heard("stranger", 1)
		s.check(t, s.Own, false)
	})
	t.Run("a silent member does not lower the written format", func(t *testing.T) {
		s := open(t)
		mustAdd(t, s.Leader.Membership, absentee(0))
		for _, heard := range []int{s.Own + 1, 1, s.Own} {
			s.Leader.Formats.Heard(s.Follower.ID, heard)
			if got, want := s.Leader.Formats.Written(), min(heard, s.Own); got != want {
				t.Errorf("Written = %d, want %d", got, want)
			}
		}
	})
	t.Run("the written format stays when the follower reads less", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		s.check(t, s.Own, false)
		s.Leader.Formats.Heard(s.Follower.ID, 1)
		if got := s.Leader.Formats.Written(); got != s.Needs {
			t.Errorf("Written = %d, want %d", got, s.Needs)
		}
	})
	t.Run("a new member counts until it is removed", func(t *testing.T) {
		s := open(t)
		s.Leader.Formats.Heard(s.Follower.ID, s.Own)
		mustAdd(t, s.Leader.Membership, absentee(0))
		s.check(t, 1, true)
		if err := s.Leader.Membership.Remove(within(t), absentee(0).ID); err != nil {
			t.Fatal(err)
		}
		s.check(t, s.Own, false)
	})
	t.Run("a member that was removed and added again must report again", func(t *testing.T) {
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

// check checks the shared format, and whether Newer is refused.
func (s FormatsSubject) check(t *testing.T, shared int, refuse bool) {
	t.Helper()
	if got := s.Leader.Formats.Shared(); got != shared {
		t.Errorf("Shared = %d, want %d", got, shared)
	}
	before, err := s.Leader.Registry.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Leader.Registry.Propose(within(t), s.Newer)
	var refusal *domain.Refusal
	if refused := errors.Is(err, ports.ErrUpgrading); refused != refuse || !refused && err != nil && !errors.As(err, &refusal) {
		t.Errorf("error of a command that needs format %d = %v, want ErrUpgrading: %v", s.Needs, err, refuse)
	}
	after, err := s.Leader.Registry.Read(within(t))
	if err != nil || refuse && after.Revision() != before.Revision() {
		t.Errorf("revision after a refused command = %d, %v, want %d", after.Revision(), err, before.Revision())
	}
	// A command of format 1 is never refused.
	if _, err := s.Leader.Registry.Propose(within(t), domain.Register{Node: cacheNode("plain", int(after.Revision())+1)}); err != nil {
		t.Errorf("error of a command of format 1 = %v, want none", err)
	}
}
