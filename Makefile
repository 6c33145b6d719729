# "make" builds bin/quipu; "make help" lists the rest. Go >= 1.21 and make are
# enough for build, test, lint and demo: go fetches the toolchain that go.mod names.

export GOTOOLCHAIN := auto

GO ?= go
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
CHROMIUM := /usr/bin/chromium
NODE_TESTS := web/test ingest/test api/test
DEBIAN := bin/debian
DEBIAN_PROGRAMS := $(addprefix $(DEBIAN)/bin/,promtool vmalert prometheus-alertmanager)

# A test that runs longer than this is stuck.
TEST_TIMEOUT ?= 20m

# Prometheus's chunkenc.Iterator has a Seek that is not io.Seeker's, so whoever
# implements it fails the one analyzer that knows io.Seeker.
VET := -stdmethods=false

# How much longer "make soak" is than "make test".
SOAK_COUNT ?= 5
SOAK_TIMEOUT ?= 2h
SOAK_FUZZTIME ?= 2m
SOAK_SEEDS ?= 1000

# How long "make fuzz" runs each target.
FUZZTIME ?= 3s

# The part of the full size at which "make bench-tsdb" replays and fills memory, and at
# which "make bench-promql" queries: at 1 it replays 24 million increments, holds 1
# million series and queries 100,000.
BENCH_SCALE ?= 0.2

.PHONY: build test test-model lint demo test-clients fuzz soak bench-tsdb bench-ingest bench-promql clean help

build: ## build bin/quipu (the default)
	@[ -e bin/quipu ] || echo "building bin/quipu: the first build compiles Prometheus and takes minutes"
	@CGO_ENABLED=0 $(GO) build -o bin/quipu ./cmd/quipu

test: ## run all Go tests, with the race detector where a C compiler is found
	@race=; \
	if printf '#include <pthread.h>\n#include <stdlib.h>\n' | $$($(GO) env CC) -fsyntax-only -x c - 2>/dev/null; \
	then race=-race; export CGO_ENABLED=1; \
	else export CGO_ENABLED=0; echo "no C compiler with headers found: testing without the race detector"; fi; \
	echo "testing: the first run compiles Prometheus and takes minutes"; \
	CGO_ENABLED=0 $(GO) build -o bin/testrun ./internal/testrun && \
	bin/testrun $$race -timeout $(TEST_TIMEOUT) ./...

test-model: ## run what takes too long with the race detector: histories of storage, queries against upstream
	@CGO_ENABLED=0 $(GO) build -o bin/testrun ./internal/testrun && \
	CGO_ENABLED=0 bin/testrun -run '^(TestModel|TestAgainstUpstream|TestBuiltinSuite.*|TestCrashSweep.*|TestDeletionNeverReturns|TestAging|TestViewAgainstUpstream|TestBucketsAgainstUpstream|TestFlippedBits.*)$$' -timeout $(TEST_TIMEOUT) ./tsdb ./cmd/quipu

lint: ## gofmt, go vet and staticcheck
	@unformatted=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	CGO_ENABLED=0 $(GO) vet $(VET) ./...
	CGO_ENABLED=0 $(GO) tool -modfile=tools/go.mod staticcheck ./...

demo: build ## count a real access log and show the answers; DEMO_EXIT=1 stops after them
	@DEMO_EXIT=$(DEMO_EXIT) bin/quipu demo

test-clients: build $(CHROMIUM) $(DEBIAN_PROGRAMS) $(NODE_TESTS:=/node_modules/.package-lock.json) ## post with the trackers' own clients, ask with Prometheus's, run rules beside Debian's promtool and Alertmanager, and the page in Chromium (needs Node >= 20 and npm; installs Chromium on Debian)
	PATH="$$PATH:$$PWD/$(DEBIAN)/bin" $(GO) test -count=1 -run '^(TestPromtoolAgrees|TestDebiansAlertmanager)$$' ./promql/ruler/ruletest ./cmd/quipu
	node --test --test-reporter=spec $(NODE_TESTS:=/*.test.mjs)

$(CHROMIUM):
	$(SUDO) apt-get update
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y chromium

# Programs of Debian's. Their packages start services where they are installed, so they
# are only unpacked. Alertmanager looks for its template in /usr/share, so it gets one of
# its own.
$(DEBIAN_PROGRAMS) &:
	$(SUDO) apt-get update
	@rm -rf $(DEBIAN)
	@mkdir -p $(DEBIAN)/bin
	cd $(DEBIAN) && apt-get download prometheus victoria-metrics prometheus-alertmanager && for d in *.deb; do dpkg-deb -x $$d . || exit 1; done
	@ln -s ../usr/bin/promtool ../usr/bin/vmalert $(DEBIAN)/bin
	@printf '%s\n' '#!/bin/sh' "cd $$PWD/$(DEBIAN)" 'exec unshare -rm sh -c '"'"'mount --bind usr/share /usr/share && exec usr/bin/prometheus-alertmanager "$$@"'"'"' sh "$$@"' >$(DEBIAN)/bin/prometheus-alertmanager
	@chmod +x $(DEBIAN)/bin/prometheus-alertmanager

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	npm --prefix $* ci --no-audit --no-fund --ignore-scripts
	@touch $@

# One test binary a package: its fuzz targets share it. Making inputs smaller
# would take most of so short a time, and can outlast its end.
fuzz: ## run each fuzz target for FUZZTIME
	@set -e; mkdir -p bin; bin=$$PWD/bin; \
	for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		CGO_ENABLED=0 $(GO) test -c -fuzz=Fuzz -o bin/fuzz.test $$dir; \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$dir/*_test.go); do \
			if (cd $$dir && $$bin/fuzz.test -test.run='^$$' -test.fuzz="^$$target\$$" -test.fuzztime=$(FUZZTIME) -test.fuzzminimizetime=1x -test.fuzzcachedir=$$bin/fuzz) >bin/fuzz.log 2>&1; \
			then echo "fuzzed $$target in $$dir for $(FUZZTIME)"; \
			else cat bin/fuzz.log; echo "fuzzing $$target in $$dir failed"; exit 1; fi; \
		done; \
	done

soak: ## run the tests SOAK_COUNT times in random order, more seeds of TestModel, then each fuzz target for SOAK_FUZZTIME
	$(GO) test -count=$(SOAK_COUNT) -shuffle=on -timeout $(SOAK_TIMEOUT) ./...
	$(GO) test -run '^TestModel$$' -timeout $(SOAK_TIMEOUT) ./tsdb -seeds $(SOAK_SEEDS)
	@$(MAKE) --no-print-directory fuzz FUZZTIME=$(SOAK_FUZZTIME)

bench-tsdb: ## print what storage costs beside Prometheus's own; BENCH_SCALE=1 for the full size
	@CGO_ENABLED=0 $(GO) build -o bin/bench-tsdb ./bench/tsdb
	@bin/bench-tsdb -scale $(BENCH_SCALE)

bench-ingest: build ## print what taking events costs the server, under load
	@CGO_ENABLED=0 $(GO) build -o bin/bench-ingest ./bench/ingest
	@bin/bench-ingest

bench-promql: ## print what queries cost beside upstream's engine and storage; BENCH_SCALE=1 for the full size
	@CGO_ENABLED=0 $(GO) build -o bin/bench-promql ./bench/promql
	@bin/bench-promql -scale $(BENCH_SCALE)

clean: ## remove what make built
	rm -rf bin $(NODE_TESTS:=/node_modules)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1: \2/p' Makefile
