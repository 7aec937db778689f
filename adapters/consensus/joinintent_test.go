package consensus

import "testing"

func TestAWishToJoinOutlivesTheInstance(t *testing.T) {
	i := start(t, instanceConfig{id: "n1", directory: t.TempDir()})
	must := func(i *instance, want bool, err error) {
		t.Helper()
		pending, other := i.JoinIntent().Pending()
		if pending != want || err != nil || other != nil {
			t.Errorf("pending: %v, errors %v, %v", pending, err, other)
		}
	}
	must(i, false, nil)
	must(i, false, i.JoinIntent().End())
	must(i, true, i.JoinIntent().Begin())
	i.stop(t)
	i = again(t, i, nil)
	must(i, true, nil)
	must(i, true, i.JoinIntent().Begin())
	must(i, false, i.JoinIntent().End())
	i.stop(t)
	i = again(t, i, nil)
	must(i, false, nil)
}
