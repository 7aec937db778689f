package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestJoiner(t *testing.T) {
	tests := map[string]func(t *testing.T){
		"a member asks nobody": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.instance.Change(becomeMember)
			j.open(t)
			time.Sleep(time.Minute)
			j.mustHaveAsked(t)
			j.close(t)
		},
		"an instance without addresses asks nobody": func(t *testing.T) {
			j := newJoining(agree)
			j.open(t)
			time.Sleep(time.Minute)
			j.mustHaveAsked(t)
			j.close(t)
		},
		"a member that is a nonvoter asks nobody": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.instance.Change(becomeMemberAs(nonvoter("n1", "h:1")))
			j.open(t)
			time.Sleep(time.Minute)
			j.mustHaveAsked(t)
			j.close(t)
		},
		"an instance that has moved asks until its address is that of the member": func(t *testing.T) {
			j := newJoining(agree, "a:80", "b:80")
			j.instance.Change(becomeMemberAs(voter("n1", "old:1")))
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80")
			j.instance.Change(becomeMember)
			time.Sleep(time.Minute)
			j.mustHaveAsked(t, "a:80")
			j.close(t)
			j.mustHaveWished(t, voter("n1", "h:1"))
		},
		"a nonvoter that has moved stays a nonvoter": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.instance.Change(becomeMemberAs(nonvoter("n1", "old:1")))
			j.open(t)
			synctest.Wait()
			j.close(t)
			j.mustHaveWished(t, nonvoter("n1", "h:1"))
		},
		"a nonvoter that has moved and is to be promoted asks to be a voter": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.instance.Change(func(s *ports.LocalState) {
				becomeMemberAs(nonvoter("n1", "old:1"))(s)
				s.Promotions = []string{"n0", "n1"}
			})
			j.open(t)
			synctest.Wait()
			j.close(t)
			j.mustHaveWished(t, voter("n1", "h:1"))
		},
		"an instance that is added as a nonvoter has joined": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.open(t)
			synctest.Wait()
			j.instance.Change(becomeMemberAs(nonvoter("n1", "h:1")))
			time.Sleep(time.Minute)
			j.mustHaveAsked(t, "a:80")
			j.close(t)
			j.mustHaveWished(t, voter("n1", "h:1"))
		},
		"a new instance does not ask itself": func(t *testing.T) {
			j := newJoining(refuse, "a:80", "own:80", "b:80")
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80", "b:80")
			j.close(t)
		},
		"a new instance with only its own address asks nobody": func(t *testing.T) {
			j := newJoining(agree, "own:80")
			j.open(t)
			time.Sleep(time.Minute)
			j.mustHaveAsked(t)
			j.close(t)
			if !strings.Contains(j.log.String(), "waits to be added") {
				t.Errorf("log = %s, want that the instance waits to be added", j.log)
			}
		},
		"an instance that has moved and is alone asks itself": func(t *testing.T) {
			j := newJoining(agree, "own:80")
			j.instance.Change(becomeMemberAs(voter("n1", "old:1")))
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "own:80")
			j.close(t)
		},
		"a joiner may be closed without having been opened": func(t *testing.T) {
			newJoining(agree, "a:80").close(t)
		},
		"opening does not wait for an answer": func(t *testing.T) {
			j := newJoining(hang, "a:80")
			began := time.Now()
			j.open(t)
			if took := time.Since(began); took != 0 {
				t.Errorf("Open took %v, want no time", took)
			}
			j.close(t)
		},
		"the first agreement is enough": func(t *testing.T) {
			j := newJoining(agree, "a:80", "b:80")
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80")
			j.close(t)
		},
		"after a refusal the next instance is asked": func(t *testing.T) {
			j := newJoining(func(_ context.Context, address string) error {
				if address == "c:80" {
					return nil
				}
				return errors.New("no leader here")
			}, "a:80", "b:80", "c:80", "d:80")
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80", "b:80", "c:80")
			j.close(t)
			for _, said := range []string{"a:80", "b:80", "no leader here"} {
				if !strings.Contains(j.log.String(), said) {
					t.Errorf("log does not contain %q: %s", said, j.log)
				}
			}
		},
		"the joiner stops when its instance is a member": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.open(t)
			synctest.Wait()
			j.instance.Change(becomeMember)
			time.Sleep(time.Minute)
			j.mustHaveAsked(t, "a:80")
			j.close(t)
			if !strings.Contains(j.log.String(), "joined") {
				t.Errorf("log = %s, want that the instance joined", j.log)
			}
		},
		"the joiner stops when another request added its instance": func(t *testing.T) {
			j := newJoining(refuse, "a:80")
			j.open(t)
			time.Sleep(time.Second)
			j.instance.Change(becomeMember)
			before := len(j.admission.questions())
			time.Sleep(time.Minute)
			if after := len(j.admission.questions()); after != before {
				t.Errorf("requests after another instance added it = %d, want none", after-before)
			}
			j.close(t)
		},
		"the joiner asks again if the membership does not come": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.open(t)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80", "a:80")
			j.close(t)
		},
		"the joiner asks again if the membership is lost": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.open(t)
			synctest.Wait()
			without := []ports.CommittedRoster{{Index: 6, Roster: domain.NewRoster(voter("n2", "h:2"))}}
			j.instance.Change(func(s *ports.LocalState) {
				becomeMember(s)
				s.Committed = without // the leader dies before anybody else has it
			})
			time.Sleep(time.Second)
			j.instance.Change(func(s *ports.LocalState) { *s = ports.LocalState{Roster: without[0].Roster, Committed: without} })
			before := len(j.admission.questions())
			time.Sleep(time.Minute)
			if after := len(j.admission.questions()); after == before {
				t.Error("the joiner sent no further requests after its membership was lost")
			}
			j.close(t)
		},
		"after an agreement in vain the next instance is asked": func(t *testing.T) {
			j := newJoining(func(_ context.Context, address string) error {
				if address == "b:80" {
					return nil
				}
				return errors.New("no leader here")
			}, "a:80", "b:80", "c:80", "d:80")
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80", "b:80")
			pass(100 * time.Millisecond)
			j.mustHaveAsked(t, "a:80", "b:80", "c:80", "d:80", "a:80", "b:80")
			j.close(t)
			if !strings.Contains(j.log.String(), "b:80 agreed, and nothing has come of that") {
				t.Errorf("log = %s, want that b:80 agreed in vain", j.log)
			}
		},
		"instances that all agree in vain are asked in turn": func(t *testing.T) {
			j := newJoining(agree, "a:80", "b:80", "c:80")
			j.open(t)
			pass(10 * time.Second)
			j.close(t)
			for i, asked := range j.admission.questions() {
				if want := []string{"a:80", "b:80", "c:80"}[i%3]; asked != want {
					t.Fatalf("request %d went to %s, want %s", i, asked, want)
				}
			}
		},
		"an instance that does not answer is given up after five seconds": func(t *testing.T) {
			j := newJoining(hang, "a:80", "b:80")
			j.open(t)
			time.Sleep(5*time.Second - 1)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80")
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80", "b:80")
			j.close(t)
		},
		"the end of the start's context does not end the joiner": func(t *testing.T) {
			j := newJoining(refuse, "a:80")
			ctx, cancel := context.WithCancel(t.Context())
			if err := j.Open(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
			time.Sleep(time.Minute)
			if asked := len(j.admission.questions()); asked < 10 {
				t.Errorf("requests after the context of the start ended = %d, want at least 10", asked)
			}
			j.close(t)
		},
		"closing ends a pause at once": func(t *testing.T) {
			j := newJoining(refuse, "a:80")
			j.open(t)
			time.Sleep(time.Minute)
			began := time.Now()
			j.close(t)
			if took := time.Since(began); took != 0 {
				t.Errorf("Close took %v, want no time", took)
			}
			before := len(j.admission.questions())
			time.Sleep(time.Minute)
			if after := len(j.admission.questions()); after != before {
				t.Errorf("requests after Close = %d, want none", after-before)
			}
		},
		"closing ends a request, asks nobody else, and waits for its end": func(t *testing.T) {
			answered := false
			j := newJoining(func(ctx context.Context, _ string) error {
				<-ctx.Done()
				time.Sleep(300 * time.Millisecond) // what is on its way takes its time
				answered = true
				return ctx.Err()
			}, "a:80", "b:80")
			j.open(t)
			synctest.Wait()
			j.close(t)
			if !answered {
				t.Error("Close returned before the request in flight had ended")
			}
			j.mustHaveAsked(t, "a:80")
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

func TestJoinerBacksOffWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJoining(refuse, "a:80")
		j.open(t)
		time.Sleep(2 * time.Minute)
		j.close(t)
		times := j.admission.times
		if len(times) < 20 {
			t.Fatalf("requests in two minutes = %d, want at least 20", len(times))
		}
		longest := 100 * time.Millisecond
		varied := map[time.Duration]bool{}
		for i := 1; i < len(times); i++ {
			pause := times[i].Sub(times[i-1])
			if pause < longest/2 || pause > longest {
				t.Errorf("pause %d = %v, want %v to %v", i, pause, longest/2, longest)
			}
			if longest == 5*time.Second {
				varied[pause] = true
			}
			longest = min(2*longest, 5*time.Second)
		}
		if len(varied) < 2 {
			t.Error("the pauses have no random part: many joiners would keep asking at the same moments")
		}
	})
}

func TestJoinStatus(t *testing.T) {
	mustSay := func(t *testing.T, j joining, want string) {
		t.Helper()
		if got := j.JoinStatus(); got != want {
			t.Errorf("JoinStatus = %q, want %q", got, want)
		}
	}
	tests := map[string]func(t *testing.T){
		"it is empty if nobody is asked": func(t *testing.T) {
			j := newJoining(agree)
			j.open(t)
			mustSay(t, j, "")
			j.close(t)
		},
		"it is empty for a member": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.instance.Change(becomeMember)
			j.open(t)
			mustSay(t, j, "")
			j.close(t)
		},
		"it names the instances asked before their answers": func(t *testing.T) {
			j := newJoining(hang, "a:80", "own:80", "b:80")
			mustSay(t, j, "")
			j.open(t)
			synctest.Wait()
			mustSay(t, j, "it asks to be added (--join), through a:80, b:80")
			j.close(t)
		},
		"it gives the refusal of each instance": func(t *testing.T) {
			j := newJoining(func(_ context.Context, address string) error { return errors.New(address + " says no") }, "a:80", "b:80")
			j.open(t)
			synctest.Wait()
			mustSay(t, j, "it asks to be added (--join), without success so far: a:80 says no; b:80 says no")
			j.close(t)
		},
		"it gives the same refusal through several instances once": func(t *testing.T) {
			j := newJoining(func(context.Context, string) error { return errors.New("the leader says no") }, "a:80", "b:80")
			j.open(t)
			synctest.Wait()
			mustSay(t, j, "it asks to be added (--join), without success so far: the leader says no")
			j.close(t)
		},
		"it is empty once the instance has joined": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.open(t)
			synctest.Wait()
			j.instance.Change(becomeMember)
			synctest.Wait()
			mustSay(t, j, "")
			j.close(t)
		},
		"an agreement replaces the refusal of the same instance": func(t *testing.T) {
			agrees := false
			j := newJoining(func(context.Context, string) error {
				if agrees {
					return nil
				}
				agrees = true
				return errors.New("no")
			}, "a:80")
			j.open(t)
			synctest.Wait()
			mustSay(t, j, "it asks to be added (--join), without success so far: no")
			pass(100 * time.Millisecond)
			mustSay(t, j, "it asks to be added (--join), through a:80")
			j.close(t)
		},
		"it names an instance that agreed in vain": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.open(t)
			pass(49 * time.Millisecond)
			mustSay(t, j, "it asks to be added (--join), through a:80")
			for range 100 { // also right after it has agreed again
				pass(51 * time.Millisecond)
				mustSay(t, j, "it asks to be added (--join), without success so far: a:80 agreed, and nothing has come of that")
			}
			j.close(t)
		},
		"a later refusal replaces the agreement": func(t *testing.T) {
			answers := []error{nil, errors.New("no leader here"), nil}
			j := newJoining(func(context.Context, string) error {
				answer := answers[0]
				answers = append(answers[1:], answer)
				return answer
			}, "a:80")
			j.open(t)
			pass(100 * time.Millisecond)
			mustSay(t, j, "it asks to be added (--join), without success so far: no leader here")
			j.close(t)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}
