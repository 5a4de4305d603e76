# Targets for people and for CI. `make help` lists them; `./run TARGET` is the same on a
# machine that has no make yet.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Programs are static and the same wherever they are built. Only the race detector
# needs cgo.
export CGO_ENABLED := 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Development tools have a module of their own so that go.mod lists only what layerfs
# itself is made of. The linter takes minutes to compile: it is kept under its version.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/layerfs/tools
LINT_VERSION := $(shell awk '$$1 == "github.com/golangci/golangci-lint/v2" { print $$2 }' tools/go.mod)
LINT := $(CACHE)/golangci-lint-$(LINT_VERSION)

# Tests. PKG, RUN and COUNT narrow a run down: make test PKG=./erofs/... RUN=TestWrite
PKG ?= ./...
RUN ?= .
COUNT ?= 1
TEST_TIMEOUT ?= 20m
TEST_FLAGS = -count=$(COUNT) -timeout=$(TEST_TIMEOUT) -run='$(RUN)'
# With RESULTS=DIR a lane leaves its counts and skips there, for the end of `make check`.
REPORT = go -C tools run ./testreport $(if $(RESULTS),-dir $(RESULTS)) -lane

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages that tests need (quick when all is there)
	@tools/setup.sh

.PHONY: build
build: ## build the static programs into bin/
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: demo
demo: build ## build layerfs and let it show what it does
	bin/layerfs demo

.PHONY: test
test: setup ## run the tests, as the current user
	go test -json $(TEST_FLAGS) $(PKG) | $(REPORT) root

.PHONY: test-rootless
test-rootless: setup ## run the tests as an unprivileged user (from root)
	@[ "$$(id -u)" = 0 ] || { echo "test-rootless starts as root; as a user, run make test" >&2; exit 1; }
	go test -json $(TEST_FLAGS) -exec '$(CURDIR)/tools/asuser.sh' \
		$$(go list $(PKG) | grep -v /internal/archtest) | $(REPORT) rootless

# The detector's runtime sleeps for a second at the end of every process, and the tests of
# the command line run some thousand of them.
.PHONY: test-race
test-race: setup ## run the short tests under the race detector
	CGO_ENABLED=1 GORACE=atexit_sleep_ms=10 go test -json -race -short $(TEST_FLAGS) $(PKG) | $(REPORT) race

.PHONY: test-vm
test-vm: ## run the tests of limits on control groups of version 2, in a virtual machine (user-mode Linux)
	tools/vm/run.sh | $(REPORT) vm

.PHONY: test-tools
test-tools: ## test the development tools of this repository
	go -C tools test -json ./... | $(REPORT) tools

.PHONY: interop
interop: setup ## run only the tests that use skopeo, umoci, docker and podman
	go test -v -count=1 -timeout=$(TEST_TIMEOUT) -run=Interop $(PKG)

.PHONY: images
images: setup ## build the real images that tests load (kept under the cache directory)
	go run ./internal/testimage/build

.PHONY: crash
crash: setup ## kill commands at every step and cut the power 2,100 times (15 minutes; make test takes a sample)
	go test -count=1 -v -timeout=60m ./internal/crashtest -run='Kill|Power|Damage|Fault' -long

.PHONY: stress
stress: setup ## 32 processes of the race-built program on one store for 20 minutes
	go test -count=1 -v -timeout=60m ./internal/crashtest -run=TestStress -long

.PHONY: containers
containers: setup ## start, stop and kill 1,000 containers and their monitors at random (10 minutes; SEED=1)
	go test -count=1 -v -timeout=60m ./internal/crashtest -run=TestContainers -long -seed=$(or $(SEED),1)

# As root and as a user. LENGTH is for how long the suites run that have no end.
.PHONY: suites
suites: setup ## put pjdfstest, unionmount-testsuite, fsx, fsstress and more on FUSE unions (3 hours; LENGTH=1h SUITE=…)
	tools/suites.sh
	go test -count=1 -v -timeout=12h ./unionfs/fuse/suites -run='$(or $(SUITE),.)' -long -length=$(or $(LENGTH),1h)
	go test -count=1 -v -timeout=12h -exec '$(CURDIR)/tools/asuser.sh' ./unionfs/fuse/suites \
		-run='$(or $(SUITE),.)' -long -length=$(or $(LENGTH),1h)

.PHONY: validate
validate: build ## compare layerfs oci with crun by the programs of OCI's runtime-tools (as root, a minute)
	tools/validate.sh

.PHONY: scale
scale: build ## measure commands on a store of 10,000 images against one of 10 (15 minutes, 5 GB; SCALE=flags)
	go run ./bench/scale $(SCALE)

.PHONY: fuzz-smoke
fuzz-smoke: ## run every fuzz target for a few seconds
	tools/fuzz.sh 3s

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10m); FUZZ narrows by name
	tools/fuzz.sh $(or $(FUZZTIME),10m) $(FUZZ)

.PHONY: vet
vet: ## gofmt and go vet
	@files=$$(git ls-files -z '*.go' | xargs -0r gofmt -l); [ -z "$$files" ] || { echo "not formatted:"; echo "$$files"; exit 1; }
	go vet ./...
	go -C tools vet ./...

.PHONY: lint
lint: $(LINT) ## run golangci-lint with the house rules
	$(LINT) run ./...

$(LINT):
	@echo "building golangci-lint $(LINT_VERSION), once; this takes a minute or three"
	@mkdir -p $(CACHE)
	go -C tools build -trimpath -o $@.tmp github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	mv $@.tmp $@

.PHONY: archtest
archtest: ## check the direction of imports between packages
	go test -count=1 ./internal/archtest

.PHONY: check
check: setup ## everything that CI runs
	@tools/check.sh

.PHONY: bench
bench: setup ## run benchmarks; BENCH narrows by name, results go to bench/results/
	@mkdir -p bench/results
	go test -run='^$$' -bench='$(or $(BENCH),.)' -benchmem -count=$(or $(BENCH_COUNT),6) -timeout=2h $(PKG) \
		| tee bench/results/$(VERSION).txt

.PHONY: bench-compare
bench-compare: setup ## compare benchmarks of REF=… with the work tree
	@[ -n "$(REF)" ] || { echo "usage: make bench-compare REF=main [BENCH=…] [PKG=…]" >&2; exit 1; }
	tools/bench-compare.sh '$(REF)' '$(or $(BENCH),.)' '$(or $(BENCH_COUNT),6)' $(PKG)

# What layerfs is measured beside. Newer builds of these on the PATH are preferred.
PEERS := containerd docker.io podman buildah umoci skopeo fuse-overlayfs runc crun bubblewrap

.PHONY: bench-peers
bench-peers: setup ## measure layerfs beside its peers, half an hour; LINES, BENCH_FLAGS: see go run ./bench -h
	@tools/setup.sh $(PEERS) linux-perf
	go run ./bench -within 30m $(BENCH_FLAGS) $(LINES)

.PHONY: bench-docs
bench-docs: ## write docs/performance.* from bench/results.json
	go run ./bench/report/render

.PHONY: clean
clean: ## remove what was built here (not the caches)
	rm -rf bin bench/results
