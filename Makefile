# Two commands on a fresh machine: `make run` and `make test`. Targets only call cargo, the CLI and the scripts in .ci/.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(HOME)/.cache/statehouse/target
CLI := $(CARGO_TARGET_DIR)/release/statehouse

.PHONY: run test check chaos fuzz modules bench setup build dist
.DEFAULT_GOAL := run

run: build ## three nodes in one process with the wallet, data in ./statehouse-data, http on 127.0.0.1:8080 8081 8082
	exec $(CLI) dev

test: ## format, lints, modules, every suite; the time of each and a summary at the end
	@.ci/setup test
	.ci/test

check: ## what is told within a minute of an edit of kernel or journal: format, rules, their lints and unit tests
	.ci/test format tidy kernel_lints kernel journal

chaos: setup ## clusters, real and simulated, with many more faults, new fuzzed inputs, and bugs that must be noticed: some hours
	STATEHOUSE_CHAOS=1 .ci/test build kernel journal host it cluster plants

fuzz: setup ## each fuzz target with libFuzzer for FUZZ_SECONDS, an hour by default: a day and more
	.ci/fuzz

modules: build ## the modules of this repository, from source, compared with the released ones
	$(CLI) module build modules/capacity
	$(CLI) module build modules/counter
	$(CLI) module build modules/wallet
	$(CLI) module verify-releases --rebuild

bench: build ## figures, beside the fixed ones of other systems
	$(CLI) bench guest
	$(CLI) bench log
	$(CLI) bench ids
	$(CLI) bench http
	$(CLI) bench events
	$(CLI) bench views
	$(CLI) bench archive
	$(CLI) bench cluster

build: setup
	cargo build --release -p statehouse

dist: setup ## what ships, in the folder `dist` beside `release`: one unit, optimized across crates, stripped; prints the sizes
	cargo build --locked --profile dist -p statehouse --bins
	cargo build --locked --profile dist -p statehouse-audit --bins
	@ls -l $(CARGO_TARGET_DIR)/dist/statehouse $(CARGO_TARGET_DIR)/dist/statehouse-audit

setup: ## installs what a build needs and this machine lacks, or says what to install
	@.ci/setup
