package consensus

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
)

func goodTiming() Timing {
	return Timing{
		HeartbeatTimeout:  time.Second,
		ElectionTimeout:   time.Second,
		SnapshotThreshold: 8192,
		SnapshotInterval:  time.Minute,
	}
}

func goodConfig() Config {
	return Config{
		ID:        "a",
		Directory: "data",
		Backend:   logstore.Backend{Name: "bolt", Open: bolt.Open},
		Demux:     &demux.Demux{},
		Peers:     neighbours{},
		Timing:    goodTiming(),
		Logger:    slog.New(slog.DiscardHandler),
		Fatal:     func(error) {},
	}
}

func TestTimingsAreChecked(t *testing.T) {
	tests := map[string]struct {
		change func(*Timing)
		says   string // in the error; empty: there is none
	}{
		"usual timings":                                   {func(*Timing) {}, ""},
		"the shortest timeouts":                           {func(c *Timing) { c.HeartbeatTimeout, c.ElectionTimeout = 50*time.Millisecond, 50*time.Millisecond }, ""},
		"the longest timeouts":                            {func(c *Timing) { c.HeartbeatTimeout, c.ElectionTimeout = time.Minute, time.Minute }, ""},
		"no trailing logs":                                {func(c *Timing) { c.TrailingLogs = 0 }, ""},
		"a heartbeat timeout too short":                   {func(c *Timing) { c.HeartbeatTimeout = 49 * time.Millisecond }, "heartbeat timeout 49ms"},
		"a negative heartbeat timeout":                    {func(c *Timing) { c.HeartbeatTimeout = -time.Second }, "heartbeat timeout -1s"},
		"an election timeout under the heartbeat timeout": {func(c *Timing) { c.ElectionTimeout = 999 * time.Millisecond }, "election timeout 999ms is under the heartbeat timeout 1s"},
		"an election timeout too long":                    {func(c *Timing) { c.ElectionTimeout = time.Minute + 1 }, "over a minute"},
		"no snapshot threshold":                           {func(c *Timing) { c.SnapshotThreshold = 0 }, "snapshot threshold is 0"},
		"a snapshot interval too short":                   {func(c *Timing) { c.SnapshotInterval = 5*time.Millisecond - 1 }, "is under 5ms"},
		"no snapshot interval":                            {func(c *Timing) { c.SnapshotInterval = 0 }, "snapshot interval 0s"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			timing := goodTiming()
			test.change(&timing)
			err := timing.Validate()
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("Validate = %v, want %q", err, test.says)
			}
		})
	}
}

func TestAllFaultsOfAConfigAreReported(t *testing.T) {
	err := Config{Timing: Timing{HeartbeatTimeout: 1, ElectionTimeout: 2 * time.Minute}}.Validate()
	if err == nil {
		t.Fatal("Validate of an empty configuration = nil, want an error")
	}
	for _, word := range []string{
		"raft id", "Directory", "Backend.Name", "Backend.Open", "Demux", "Logger", "Fatal",
		"heartbeat timeout", "over a minute", "snapshot threshold", "snapshot interval",
	} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error does not contain %q:\n%v", word, err)
		}
	}
}

func TestConfigurationsAreChecked(t *testing.T) {
	if err := goodConfig().Validate(); err != nil {
		t.Fatalf("Validate of a valid configuration = %v, want no error", err)
	}
	tests := map[string]struct {
		change func(*Config)
		says   string
	}{
		"no id":                       {func(c *Config) { c.ID = "" }, "raft id"},
		"an id that is too long":      {func(c *Config) { c.ID = strings.Repeat("x", 129) }, "raft id"},
		"an id with a space":          {func(c *Config) { c.ID = "a b" }, "raft id"},
		"no directory":                {func(c *Config) { c.Directory = "" }, "Directory"},
		"no backend":                  {func(c *Config) { c.Backend.Name = "" }, "Backend.Name"},
		"no function to open a store": {func(c *Config) { c.Backend.Open = nil }, "Backend.Open"},
		"no port":                     {func(c *Config) { c.Demux = nil }, "Demux"},
		"no logger":                   {func(c *Config) { c.Logger = nil }, "Logger"},
		"no Fatal":                    {func(c *Config) { c.Fatal = nil }, "Fatal"},
		"a bad timing":                {func(c *Config) { c.Timing.SnapshotThreshold = 0 }, "snapshot threshold"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			config := goodConfig()
			test.change(&config)
			err := config.Validate()
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Validate = %v, want one fault, of %q", err, test.says)
			}
			if _, newErr := New(config); !errors.Is(newErr, err) && (newErr == nil || newErr.Error() != err.Error()) {
				t.Errorf("New = %v, want %v", newErr, err)
			}
		})
	}
}

// Raft validates its configuration too, but reports one fault at a time, and only at the
// start.
func TestRaftTakesEveryTimingThatIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		duration := func(what string, least, most time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(int64(least), int64(most)).Draw(t, what))
		}
		heartbeat := duration("heartbeat", 50*time.Millisecond, time.Minute)
		config := goodConfig()
		config.Timing = Timing{
			HeartbeatTimeout:  heartbeat,
			ElectionTimeout:   duration("election", heartbeat, time.Minute),
			SnapshotThreshold: rapid.Uint64Min(1).Draw(t, "threshold"),
			SnapshotInterval:  duration("interval", 5*time.Millisecond, time.Hour),
			TrailingLogs:      rapid.Uint64().Draw(t, "trailing logs"),
		}
		if err := config.Validate(); err != nil {
			t.Fatal(err)
		}
		if err := raft.ValidateConfig((&Node{config: config}).settings()); err != nil {
			t.Fatalf("raft refuses the valid timing %+v: %v", config.Timing, err)
		}
	})
}
