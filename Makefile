# Everything that is done with this repository. It needs Go, git and make; the tests also
# need a C compiler (for the race detector), bash, curl, pkill, and the ports 8008 to 8010
# and 8080 to 8082.

GO       ?= go
PACKAGES ?= ./...
FUZZTIME ?= 20s

# The race detector lets every process that ends wait for a second, for what its goroutines
# do meanwhile; none is left of a test that passes.
RACE := GORACE="atexit_sleep_ms=0 $$GORACE" $(GO) test -race

# What instances give themselves: see docs/adr/0023-the-runtimes-monitor.md.
AWAKE := GODEBUG=schedtrace=2147483647

# What microbench runs, and what microbench-compare compares with, how often.
BENCH    ?= .
BEFORE   ?= HEAD
COUNT    ?= 6

# What bench measures: the rows that match, how often, for how long each, and with
# which storage backend (empty: the default).
ROWS          ?=
BENCH_ROUNDS  ?= 3
BENCH_TIME    ?= 1s
BENCH_BACKEND ?=

# What test-faults does: for how long with each backend (bolt, badger, wal or all), how
# often each nemesis strikes at least, which of them (a regular expression; all), and
# the seed of a run that is to be repeated (0: another one each time).
FAULTTIME ?= 3m
BACKEND   ?= all
ROUNDS    ?= 1
ONLY      ?= .
SEED      ?= 0

# How much soak does with each BACKEND.
KILLS      ?= 100
ELECTIONS  ?= 500
DELIVERIES ?= 1000000
CROWD      ?= 1000
STEADY     ?= 10m

SEEDS    ?= 5000
FIRST    ?= $(shell date +%s)
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

TOOL    := $(GO) tool -modfile=tools/go.mod
PROGRAM := bin/nodesmetadata
LDFLAGS := -X github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon.version=$(VERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/nodesmetadata
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(PROGRAM) ./cmd/nodesmetadata

.PHONY: run
run: build ## run one instance in the foreground, with wal under ./data
	exec $(PROGRAM) --raft_id=n1 --raft_dir=data --bootstrap_raft_cluster

# Instance N of the local cluster: n1 is at 127.0.0.1:8080, n2 at :8081, n3 at :8082.
INSTANCE = $(PROGRAM) --raft_id=n$(1) --raft_dir=data/cluster/n$(1) \
	--raft_bind_address=127.0.0.1:$$((8007 + $(1))) --application_bind_address=127.0.0.1:$$((8079 + $(1))) \
	$(if $(filter 1,$(1)),--bootstrap_raft_cluster,--join=127.0.0.1:8080)

# Ctrl-C reaches all processes of the terminal, so that the shell only has to go
# on waiting for them; a SIGTERM, which is sent to one, it passes on.
.PHONY: cluster
cluster: build ## run three joined instances in the foreground, under ./data/cluster; Ctrl-C ends all
	@trap : INT; trap 'kill $$pids 2>/dev/null' TERM; \
	$(call INSTANCE,1) & pids="$$!"; \
	$(call INSTANCE,2) & pids="$$pids $$!"; \
	$(call INSTANCE,3) & pids="$$pids $$!"; \
	until wait; do :; done

.PHONY: instance-%
instance-%: build ## run instance 1, 2 or 3 of that cluster alone, as after a crash
	exec $(call INSTANCE,$*)

.PHONY: test
test: fmt-check vet lint imports unit bench-check e2e ## all that CI runs

.PHONY: fmt-check
fmt-check: ## fail when gofmt would change a file
	@unformatted="$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go'))" || exit 1; \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi

.PHONY: vet
vet: ## go vet
	$(GO) vet $(PACKAGES)

.PHONY: lint
lint: ## staticcheck, as pinned in tools/go.mod
	$(TOOL) staticcheck $(PACKAGES)

.PHONY: imports
imports: ## the rules about who may import whom
	$(GO) test -count=1 -run '^TestImports$$|^TestTheImportRules' ./test

# Three packages at a time keep two processors busy: most of what some of them do is wait.
# Those that take long are begun first, so that none of them is left alone at the end.
.PHONY: unit
unit: ## the tests of every package but ./test, with the race detector
	$(RACE) -p=3 -timeout=10m ./adapters/consensus ./adapters/logstore/badger ./adapters/httpapi ./adapters/logstore/wal \
		$$($(GO) list ./... | grep -v '/test$$\|/test/')

# Instances that are begun awake need not begin anew, which the race detector makes expensive.
.PHONY: e2e
e2e: ## whole clusters and real processes, with the race detector
	$(AWAKE) $(RACE) -timeout=20m -count=1 ./test/...

.PHONY: e2e-backends
e2e-backends: ## the end-to-end tests, also those with each backend that have nothing to do with it
	$(RACE) -timeout=40m -count=1 ./test/e2e -every_backend

.PHONY: test-faults
test-faults: ## faults under load, in network namespaces, for FAULTTIME (3m) with each BACKEND (all); needs root
	$(GO) test -count=1 -timeout=0 -v -run '^TestFaults$$' ./test/faults \
		-faulttime=$(FAULTTIME) -backend=$(BACKEND) -rounds=$(ROUNDS) -only='$(ONLY)' -seed=$(SEED)

.PHONY: soak
soak: ## kill all KILLS (100) times, read through ELECTIONS (500), stream DELIVERIES (1000000) changes, with a CROWD (1000) that never reads, and see no election in STEADY (10m) of full load; an hour or more
	$(MAKE) test-faults FAULTTIME=0 ROUNDS=$(KILLS) ONLY='^kill -9 of all$$$$' BACKEND=$(BACKEND) SEED=$(SEED)
	$(GO) test -count=1 -timeout=0 -v -run 'Elections$$|^TestStreams' ./test/faults \
		-elections=$(ELECTIONS) -deliveries=$(DELIVERIES) -backend=$(BACKEND) -seed=$(SEED)
	$(GO) test -count=1 -timeout=0 -v -run '^TestSubscribersThatNeverReadCost' ./test/e2e -crowd=$(CROWD)
	$(MAKE) steady STEADY=$(STEADY) BACKEND=$(BACKEND)

.PHONY: steady
steady: ## see no election in STEADY (10m) of full load with each BACKEND; the machine must have nothing else to do
	$(GO) test -count=1 -timeout=0 -v -run '^TestNobodyStandsForElectionUnderFullLoad$$' ./test/faults -fullload=$(STEADY) -backend=$(BACKEND)

.PHONY: simulate
simulate: ## run SEEDS (5000) short histories of simulated clusters, from seed FIRST
	$(GO) test -count=1 -timeout=20m -v -run '^TestHistories$$' ./test/simulation -histories=$(SEEDS) -first=$(FIRST)

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (20s)
	@set -e; for package in $$($(GO) list ./...); do \
		for name in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

.PHONY: bench
bench: ## measure the ROWS (all) of the table beside etcd, in BENCH_ROUNDS (3) of BENCH_TIME (1s); all of them, with nothing set, write docs/performance.md
	cd bench && $(AWAKE) $(GO) run . -rows='$(ROWS)' -rounds=$(BENCH_ROUNDS) -time=$(BENCH_TIME) -backend=$(BENCH_BACKEND)

.PHONY: bench-check
bench-check: ## vet and lint bench, which is a module of its own, and measure its table at a tiny size
	cd bench && $(GO) vet ./... && $(GO) tool -modfile=../tools/go.mod staticcheck ./... && $(GO) test -timeout=5m ./...

.PHONY: microbench
microbench: ## run the Go benchmarks that BENCH matches (all), without the race detector
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout=60m $(PACKAGES)

.PHONY: microbench-compare
microbench-compare: ## compare those of the PACKAGES with what they were at commit BEFORE (HEAD), COUNT (6) times in turns, by benchstat
	@mkdir -p bin; rm -f bin/before.txt bin/after.txt; git worktree prune
	git worktree add --force --detach bin/before $(BEFORE)
	@trap 'git worktree remove --force bin/before' EXIT; set -e; for i in $$(seq $(COUNT)); do \
		(cd bin/before && $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PACKAGES)) >>bin/before.txt; \
		$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PACKAGES) >>bin/after.txt; \
	done; \
	$(TOOL) benchstat bin/before.txt bin/after.txt

.PHONY: cover
cover: ## what the tests reach, into bin/cover.html
	@mkdir -p bin
	$(GO) test -coverpkg=./... -coverprofile=bin/cover.out ./...
	$(GO) tool cover -html=bin/cover.out -o bin/cover.html
	@$(GO) tool cover -func=bin/cover.out | tail -n 1

.PHONY: clean
clean: ## remove what was built; data stays
	rm -rf bin
