package history

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// searchTime bounds porcupine on one round's history.
const searchTime = time.Minute

// Check searches for an order of the operations that a single registry could have
// produced. If there is none, it leaves a picture of the operations, NAME.html,
// among the artifacts of t.
func Check(t testing.TB, name string, operations []porcupine.Operation) porcupine.CheckResult {
	t.Helper()
	result, info := porcupine.CheckOperationsVerbose(Model, operations, searchTime)
	if result == porcupine.Illegal {
		picture := filepath.Join(t.ArtifactDir(), name+".html")
		if err := porcupine.VisualizePath(Model, info, picture); err != nil {
			t.Error(err)
		}
		t.Logf("%s is not linearizable; run with -artifacts to keep the picture of it", name)
	}
	return result
}
