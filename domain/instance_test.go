package domain_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestNewInstance(t *testing.T) {
	suffrage := func(s domain.Suffrage) *domain.Suffrage { return &s }
	tests := map[string]struct {
		id, address string
		suffrage    *domain.Suffrage
		want        domain.Suffrage
		faults      []string // the fields, in order; none: it is accepted
	}{
		"an instance is a voter by default":           {id: "n1", address: "h:1", want: domain.Voter},
		"an instance may be a voter":                  {id: "n1", address: "h:1", suffrage: suffrage("voter"), want: domain.Voter},
		"an instance may be a nonvoter":               {id: "n1", address: "h:1", suffrage: suffrage("nonvoter"), want: domain.Nonvoter},
		"an instance may have an IPv6 address":        {id: "n1", address: "[::1]:1", want: domain.Voter},
		"an instance may have a node's reserved word": {id: "sse", address: "h:1", want: domain.Voter},
		"an id must be given":                         {address: "h:1", faults: []string{"id"}},
		"an id must be valid":                         {id: "a/b", address: "h:1", faults: []string{"id"}},
		"an address must be given":                    {id: "n1", faults: []string{"address"}},
		"an address must be valid":                    {id: "n1", address: "h", faults: []string{"address"}},
		"an address must not be a wildcard":           {id: "n1", address: "0.0.0.0:1", faults: []string{"address"}},
		"a suffrage that is given must not be empty":  {id: "n1", address: "h:1", suffrage: suffrage(""), faults: []string{"suffrage"}},
		"a suffrage is one of two":                    {id: "n1", address: "h:1", suffrage: suffrage("staging"), faults: []string{"suffrage"}},
		"all faults are reported":                     {suffrage: suffrage("x"), faults: []string{"id", "address", "suffrage"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := domain.NewInstance(test.id, test.address, test.suffrage)
			if len(test.faults) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				mustEqual(t, "the instance", got, domain.Instance{ID: test.id, RaftAddress: test.address, Suffrage: test.want})
				return
			}
			if !errors.Is(err, domain.ErrInvalid) {
				t.Fatalf("error = %v, want %v", err, domain.ErrInvalid)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.faults) {
				t.Fatalf("faults = %d, want %v: %v", len(lines), test.faults, err)
			}
			for i, field := range test.faults {
				if !strings.HasPrefix(lines[i], field+" ") {
					t.Errorf("fault %d = %s, want one of %q", i, lines[i], field)
				}
			}
			mustEqual(t, "a refused instance", got, domain.Instance{})
		})
	}
}

func voter(id, address string) domain.Instance {
	return domain.Instance{ID: id, RaftAddress: address, Suffrage: domain.Voter}
}

func nonvoter(id, address string) domain.Instance {
	return domain.Instance{ID: id, RaftAddress: address, Suffrage: domain.Nonvoter}
}

func TestRosterIsAListInOrder(t *testing.T) {
	given := []domain.Instance{voter("c", "h:3"), nonvoter("a", "h:1"), voter("b", "h:2")}
	roster := domain.NewRoster(given...)
	want := []domain.Instance{nonvoter("a", "h:1"), voter("b", "h:2"), voter("c", "h:3")}
	mustEqual(t, "instances", roster.Instances(), want)
	mustEqual(t, "the given instances", given[0], voter("c", "h:3"))
	slices.Reverse(roster.Instances())
	mustEqual(t, "instances after a reader turned them round", roster.Instances(), want)
	if roster.Voters() != 2 {
		t.Errorf("Voters = %d, want 2", roster.Voters())
	}
	if got, found := roster.Find("b"); !found || got != voter("b", "h:2") {
		t.Errorf("Find(b) = %v, %v, want the voter at h:2", got, found)
	}
	if got, found := roster.Find("d"); found || got != (domain.Instance{}) {
		t.Errorf("Find(d) = %v, %v, want none", got, found)
	}
	var nobody domain.Roster
	if _, found := nobody.Find("a"); found || nobody.Voters() != 0 || len(nobody.Instances()) != 0 {
		t.Error("the zero roster has members")
	}
}

func TestJoin(t *testing.T) {
	step := func(kind domain.StepKind, i domain.Instance) domain.Step { return domain.Step{Kind: kind, Instance: i} }
	steps := func(s ...domain.Step) []domain.Step { return s }
	of := domain.NewRoster
	a, b := voter("a", "h:1"), voter("b", "h:2")
	var members []domain.Instance
	for n := range domain.MaxInstances {
		members = append(members, voter(fmt.Sprintf("m%d", n), fmt.Sprintf("h:%d", n+1)))
	}
	full := of(members...)
	tests := map[string]struct {
		roster domain.Roster
		wanted domain.Instance
		want   []domain.Step
		err    error
	}{
		"a voter is added":                                   {of(a), b, steps(step(domain.SetVoter, b)), nil},
		"a nonvoter is added":                                {of(a), nonvoter("b", "h:2"), steps(step(domain.SetNonvoter, nonvoter("b", "h:2"))), nil},
		"the first instance is added":                        {of(), a, steps(step(domain.SetVoter, a)), nil},
		"a voter that is added again is left alone":          {of(a, b), b, nil, nil},
		"a nonvoter that is added again is left alone":       {of(a, nonvoter("b", "h:2")), nonvoter("b", "h:2"), nil, nil},
		"the only voter that is added again is left alone":   {of(a), a, nil, nil},
		"a voter moves":                                      {of(a, b), voter("b", "h:9"), steps(step(domain.SetVoter, voter("b", "h:9"))), nil},
		"the only voter moves":                               {of(a), voter("a", "h:9"), steps(step(domain.SetVoter, voter("a", "h:9"))), nil},
		"a voter with another spelling of its address moves": {of(a, b), voter("b", "H:2"), steps(step(domain.SetVoter, voter("b", "H:2"))), nil},
		"a nonvoter moves":                                   {of(a, nonvoter("b", "h:2")), nonvoter("b", "h:9"), steps(step(domain.SetNonvoter, nonvoter("b", "h:9"))), nil},
		"a nonvoter is promoted":                             {of(a, nonvoter("b", "h:2")), b, steps(step(domain.SetVoter, b)), nil},
		"a nonvoter moves and is promoted in one step":       {of(a, nonvoter("b", "h:2")), voter("b", "h:9"), steps(step(domain.SetVoter, voter("b", "h:9"))), nil},
		"a voter is demoted":                                 {of(a, b), nonvoter("b", "h:2"), steps(step(domain.Demote, nonvoter("b", "h:2"))), nil},
		"a voter is demoted before it moves":                 {of(a, b), nonvoter("b", "h:9"), steps(step(domain.Demote, nonvoter("b", "h:9")), step(domain.SetNonvoter, nonvoter("b", "h:9"))), nil},
		"the last voter is not demoted":                      {of(a), nonvoter("a", "h:1"), nil, domain.ErrLastVoter},
		"the last voter is not demoted beside nonvoters":     {of(a, nonvoter("b", "h:2")), nonvoter("a", "h:1"), nil, domain.ErrLastVoter},
		"the last voter does not move to be demoted":         {of(a), nonvoter("a", "h:9"), nil, domain.ErrLastVoter},
		"an address has one owner":                           {of(a), voter("b", "h:1"), nil, domain.ErrAddressInUse},
		"a full cluster takes no other instance":             {full, voter("z", "z:1"), nil, domain.ErrClusterFull},
		"a full cluster takes changes of its members":        {full, voter("m7", "z:1"), steps(step(domain.SetVoter, voter("m7", "z:1"))), nil},
		"an address has one owner in every spelling":         {of(a), voter("b", "H:1"), nil, domain.ErrAddressInUse},
		"a nonvoter's address is in use too":                 {of(a, nonvoter("b", "h:2")), voter("c", "h:2"), nil, domain.ErrAddressInUse},
		"a member does not move to an address in use":        {of(a, b), voter("b", "h:1"), nil, domain.ErrAddressInUse},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := test.roster.Instances()
			got, err := test.roster.StepsFor(test.wanted)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
			mustEqual(t, "steps", got, test.want)
			mustEqual(t, "the roster", test.roster.Instances(), before)
		})
	}
}

func TestLeave(t *testing.T) {
	of := domain.NewRoster
	tests := map[string]struct {
		roster domain.Roster
		id     string
		err    error
	}{
		"a voter leaves others":                {of(voter("a", "h:1"), voter("b", "h:2")), "a", nil},
		"a nonvoter leaves the only voter":     {of(voter("a", "h:1"), nonvoter("b", "h:2")), "b", nil},
		"the last voter stays":                 {of(voter("a", "h:1")), "a", domain.ErrLastVoter},
		"the last voter stays with nonvoters":  {of(voter("a", "h:1"), nonvoter("b", "h:2")), "a", domain.ErrLastVoter},
		"only a member can leave":              {of(voter("a", "h:1")), "b", domain.ErrNoSuchInstance},
		"nobody can leave an empty membership": {of(), "a", domain.ErrNoSuchInstance},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := test.roster.CheckRemoval(test.id); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
		})
	}
}

func TestSucceed(t *testing.T) {
	roster := domain.NewRoster(voter("a", "h:1"), nonvoter("b", "h:2"))
	tests := map[string]struct {
		id  string
		err error
	}{
		"a voter may lead":       {"a", nil},
		"a nonvoter can't lead":  {"b", domain.ErrNotVoter},
		"only a member can lead": {"c", domain.ErrNoSuchInstance},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := roster.CheckSuccessor(test.id); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
		})
	}
}
