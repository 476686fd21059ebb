# fulcrum: every target says what it does; `make help` lists them.
GO      ?= go
TAGS    := pebblegozstd
export CGO_ENABLED := 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
PKGS    := ./...

.PHONY: help build up down test check race bench peers growth soak fuzz mutants mutants-smoke clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/fulcrum
	@$(GO) build -ldflags '$(LDFLAGS)' -o bin/fulcrum ./cmd/fulcrum

up: build ## build, start a local cluster of 5 nodes in the background, say what to try next
	@bin/fulcrum up -o table

down: ## stop the local cluster (its data stays in ./data; bin/fulcrum down --wipe removes it)
	@bin/fulcrum down -o table

test: check build race mutants-smoke ## everything CI runs: format, vet, lint, tidy, all tests, the race detector on the packages that share memory, some mutants
	$(GO) test -tags $(TAGS) -shuffle=on -timeout 15m $(PKGS)

check: ## format, go vet, staticcheck, go mod tidy
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet -tags $(TAGS) $(PKGS)
	$(GO) tool -modfile=tools/go.mod staticcheck -tags $(TAGS) $(PKGS)

RACE := . ./consistency ./partition ./replication/... ./node/api/... ./node/fault ./node/netfault ./node/transport ./node/storage ./node/membership
# One processor: the Go runtime (1.26) runs the timers of a synctest bubble that are due at once on the
# goroutine that sets them, all with the bubble's one race context, and the detector crashes when two
# processors do so at a time. What it reports follows from happens-before, which one processor shows as well.
RACEFLAGS := -race -cpu 1 -tags $(TAGS) -timeout 10m
race: ## tests under the race detector, and some whole nodes (needs a C compiler)
	@if command -v $${CC:-cc} >/dev/null 2>&1; then \
		echo "$(GO) test -race $(RACE)"; CGO_ENABLED=1 $(GO) test $(RACEFLAGS) $(RACE) && \
		CGO_ENABLED=1 $(GO) test $(RACEFLAGS) -run 'TestACase|TestASeed|TestASim' ./jepsen-lite; \
	else echo "race: skipped, there is no C compiler (install gcc)"; fi

bench: ## Go benchmarks, compared by benchstat with the last run's if there is one (bench.old)
	$(GO) test -tags $(TAGS) -run '^$$' -bench . -benchmem -count 5 $(PKGS) | tee bench.new
	$(GO) tool -modfile=tools/go.mod benchstat $$(test -f bench.old && echo bench.old) bench.new
	@mv bench.new bench.old

PEERS ?=
peers: build ## fulcrum beside etcd and Redis, side by side in one run: about twenty minutes, on an idle machine (PEERS="--help" for less)
	@$(GO) run ./bench/peers $(PEERS)

growth: build ## what fulcrum costs as keys, values, shards and nodes grow: about half an hour, on an idle machine (GROWTH="--help" for less)
	@$(GO) run ./bench/growth $(GROWTH)

FUZZTIME ?= 20s
fuzz: ## every fuzz target for FUZZTIME (20s) each
	@for pkg in $$($(GO) list ./...); do for f in $$($(GO) test -tags $(TAGS) -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
		echo "$$pkg $$f"; $(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; done; done

MUTANTS ?=
mutants: ## every way in which the store and the harness can be broken on purpose: each must be noticed (MUTANTS="name ..." for some)
	@$(GO) build -tags '$(TAGS) mutants' -o bin/fulcrum-mutants ./cmd/fulcrum
	@bin/fulcrum-mutants jepsen mutants $(MUTANTS) -o table

# Something of every mode and of the harness, each killed by the first seeds.
SMOKE := no-fsync no-index-wait read-r-minus-one lf-ack-before-quorum switch-no-merge nemesis-noop recorder-drops-ops final-read-skipped
mutants-smoke: ## a choice of the mutants that takes less than a minute
	@$(MAKE) --no-print-directory mutants MUTANTS="$(SMOKE)"

SOAKTIME ?= 1h
soak: build ## whole nodes under the race detector, then simulated and real suites with ever new seeds for SOAKTIME (1h)
	CGO_ENABLED=1 $(GO) test $(RACEFLAGS) -count=1 -timeout 60m ./jepsen-lite/sim
	@end=$$(( $$(date +%s) + $$(echo $(SOAKTIME) | sed 's/h/*3600/;s/m/*60/;s/s//') )); n=0; \
	while [ $$(date +%s) -lt $$end ]; do n=$$((n+1)); seed=$$(date +%s); echo "round $$n, seed $$seed"; \
		bin/fulcrum jepsen suite --time 10m --seed $$seed -o table || exit 1; \
		bin/fulcrum jepsen run --workload durability --nemesis kill-all --quiet 2s --busy 1s --time 5m --rate 200 --seed $$seed -o table || exit 1; \
		$(GO) test -tags $(TAGS) -count=1 -timeout 20m ./replication/raft -run 'TestSimulation$$' -raft.sim.first $$seed -raft.sim.seeds 2000 -raft.sim.cpus 2 || exit 1; \
		$(GO) test -tags $(TAGS) -count=1 -timeout 20m ./cmd/... ./node ./replication/... ./jepsen-lite/sim || exit 1; done; echo "$$n rounds passed"

clean: ## remove what was built (not the data)
	@rm -rf bin bench.old bench.new
