package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Backup is what GET /raft/backup answers.
type Backup struct {
	File      []byte
	ClusterID string
	Registry
}

// Backup downloads a backup of the registry.
func (c *Client) Backup(ctx context.Context) (Backup, error) {
	answer, err := c.Do(ctx, http.MethodGet, "/raft/backup", nil)
	if err != nil {
		return Backup{}, err
	}
	backup, err := readBackup(answer.Body)
	if err != nil {
		return Backup{}, err
	}
	if seen, err := answer.Revision(); err != nil || seen != backup.Revision {
		return Backup{}, fmt.Errorf("the backup is of revision %d, and the header of the answer names %d, %v", backup.Revision, seen, err)
	}
	return backup, nil
}

func readBackup(file []byte) (Backup, error) {
	lines := bytes.Split(bytes.TrimSuffix(file, []byte("\n")), []byte("\n"))
	var head struct {
		ClusterID string `json:"clusterID"`
		Revision  uint64 `json:"revision"`
		Nodes     int    `json:"nodes"`
	}
	if err := json.Unmarshal(lines[0], &head); err != nil {
		return Backup{}, err
	}
	if len(lines) != head.Nodes+2 {
		return Backup{}, fmt.Errorf("a backup of %d nodes has %d lines", head.Nodes, len(lines))
	}
	backup := Backup{File: file, ClusterID: head.ClusterID, Registry: Registry{Revision: head.Revision, Nodes: map[string]Node{}}}
	for _, line := range lines[1 : len(lines)-1] {
		var node Node
		if err := json.Unmarshal(line, &node); err != nil {
			return Backup{}, err
		}
		backup.Nodes[node.ID] = node
	}
	return backup, nil
}

// Restored is what POST /raft/restore answers.
type Restored struct {
	Revision  uint64 `json:"revision"`
	Added     int    `json:"added"`
	Updated   int    `json:"updated"`
	Removed   int    `json:"removed"`
	Unchanged int    `json:"unchanged"`
	Backup    struct {
		ClusterID string `json:"clusterID"`
		Revision  uint64 `json:"revision"`
	} `json:"backup"`
}

// Restore replaces the registry with a backup.
func (c *Client) Restore(ctx context.Context, file []byte, conditions ...Header) (Restored, error) {
	answer, err := c.Do(ctx, http.MethodPost, "/raft/restore", file, conditions...)
	if err != nil {
		return Restored{}, err
	}
	var restored Restored
	seen, err := decode(answer, &restored)
	if err == nil && seen != restored.Revision {
		err = fmt.Errorf("the restore ended at revision %d, and the header of the answer names %d", restored.Revision, seen)
	}
	return restored, err
}
