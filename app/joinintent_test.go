package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// An instance that was asking to be added when it ended goes on asking, unless it was
// added.
func TestJoinerGoesOnAfterARestart(t *testing.T) {
	tests := map[string]func(t *testing.T){
		"an instance that was asking goes on if its addition may be lost": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.joinIntent.pending = true
			j.instance.Change(func(s *ports.LocalState) {
				becomeMemberAs(nonvoter("n1", "h:1"))(s)
				s.Promotions, s.Committed = []string{"n1"}, nil
			})
			j.open(t)
			pass(5*time.Second - 1)
			j.mustHaveAsked(t)
			pass(time.Second)
			if len(j.admission.questions()) == 0 {
				t.Fatal("the restarted joiner asks no instance")
			}
			j.mustHaveWished(t, voter("n1", "h:1"))
			j.mustBePending(t, true)
			j.instance.Change(becomeMember)
			synctest.Wait()
			j.mustBePending(t, false)
			j.close(t)
		},
		"an instance that was asking and was added asks nobody": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.joinIntent.pending = true
			j.instance.Change(becomeMember)
			j.instance.Change(func(s *ports.LocalState) { s.Committed = nil })
			j.open(t)
			pass(time.Second)
			j.instance.Change(becomeMember)
			pass(time.Minute)
			j.mustHaveAsked(t)
			j.mustBePending(t, false)
			j.close(t)
		},
		"an instance that was not asking may have been removed, and asks nobody": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.instance.Change(becomeMember)
			j.instance.Change(func(s *ports.LocalState) { s.Committed = nil })
			j.open(t)
			pass(time.Minute)
			j.mustHaveAsked(t)
			j.close(t)
		},
		"an instance without addresses forgets that it was asking": func(t *testing.T) {
			j := newJoining(agree)
			j.joinIntent.pending = true
			j.open(t)
			j.mustBePending(t, false)
			j.close(t)
		},
		"the intent is stored before the first request, until the instance is a member": func(t *testing.T) {
			var j joining
			j = newJoining(func(context.Context, string) error {
				j.mustBePending(t, true)
				return errors.New("no")
			}, "a:80")
			j.open(t)
			synctest.Wait()
			j.close(t)
			j.mustBePending(t, true)
			j.open(t)
			j.instance.Change(becomeMember)
			synctest.Wait()
			j.mustBePending(t, false)
			j.close(t)
			if j.joinIntent.begun != 2 {
				t.Errorf("Begin was called %d times, want 2", j.joinIntent.begun)
			}
		},
		"an instance that can't store the intent asks nevertheless": func(t *testing.T) {
			j := newJoining(agree, "a:80")
			j.joinIntent.err = errors.New("no room")
			j.open(t)
			synctest.Wait()
			j.mustHaveAsked(t, "a:80")
			j.close(t)
			if !strings.Contains(j.log.String(), "no room") {
				t.Errorf("log = %s, want the error of Begin", j.log)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}
