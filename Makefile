SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test ci bench microbench flamegraph profile-diff lint fmt deps clean

CARGO ?= cargo
# A clone without a lock file may still resolve its dependencies; with one, what is in it is what is built.
LOCKED := $(if $(wildcard Cargo.lock),--locked)
SCRIPTS := .ci/run $(wildcard tests/*.sh tests/clients/*.sh tests/clients/*/*.sh bench/*.sh perf/*.sh)
SKIPPED := $(CURDIR)/target/skipped-tests.txt

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Start a server on port 22201, data in ./ringq-data; ARGS='-p 11311 -N' adds options
	$(CARGO) run $(LOCKED) --release --bin ringq -- $(ARGS)

test: ## Run all tests; those whose client program is missing are named as skipped
	tests/deps.sh
	rm -f $(SKIPPED)
	status=0; \
	RINGQ_SKIPPED_FILE=$(SKIPPED) $(CARGO) test $(LOCKED) || status=$$?; \
	if [ -s $(SKIPPED) ]; then sed 's/^/skipped: /' $(SKIPPED); fi; \
	exit $$status

ci: lint ## What continuous integration runs: lint, then all tests with every client present
	tests/deps.sh --require
	RINGQ_REQUIRE_CLIENTS=1 $(MAKE) --no-print-directory test

bench: ## Measure and judge all targets, about 40 minutes; QUICK=1 for two, ONLY=floor,depth for a part
	$(CARGO) build $(LOCKED) --release --bins
	bench/compare.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

microbench: ## Time single steps in process and compare with the last run; ONLY=queue for a part
	$(CARGO) bench $(LOCKED) --bench micro -- $(ONLY)

flamegraph: ## Draw where CPU time goes under load; ARGS=-N, WORKLOAD='fill -c 256', NAME=before
	perf/flamegraph.sh

profile-diff: ## Draw what changed between two flame graphs: OLD=before NEW=after
	perf/flamegraph.sh diff $(or $(OLD),before) $(or $(NEW),after)

lint: ## Check formatting, code, documentation and scripts
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc $(LOCKED) --no-deps --document-private-items --lib
	for script in $(SCRIPTS); do bash -n "$$script"; done

fmt: ## Format the code
	$(CARGO) fmt

deps: ## Install the memcache clients that tests use (as root; otherwise say what to install)
	tests/deps.sh

clean: ## Remove what was built; the data directory stays
	$(CARGO) clean
