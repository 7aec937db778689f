package consensus

import "testing"

func TestTheJoinIntentSurvivesARestart(t *testing.T) {
	i := start(t, instanceConfig{id: "n1", directory: t.TempDir()})
	must := func(i *instance, want bool, err error) {
		t.Helper()
		pending, other := i.JoinPending()
		if pending != want || err != nil || other != nil {
			t.Errorf("pending join intent = %v, errors %v, %v, want the stored one", pending, err, other)
		}
	}
	must(i, false, nil)
	must(i, false, i.EndJoin())
	must(i, true, i.BeginJoin())
	i.stop(t)
	i = restart(t, i, nil)
	must(i, true, nil)
	must(i, true, i.BeginJoin())
	must(i, false, i.EndJoin())
	i.stop(t)
	i = restart(t, i, nil)
	must(i, false, nil)
}
