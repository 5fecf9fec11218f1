SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run audit sim sim-long sim-canary demo build man install install-examples uninstall deb test soak powercut faults fuzz fuzz-list sanitize screenshots test-package ci bench overhead microbench flamegraph profile-diff lint fmt deps clean

CARGO ?= cargo
# A clone without a lock file may still resolve its dependencies; with one, what is in it is what is built.
LOCKED := $(if $(wildcard Cargo.lock),--locked)
SCRIPTS := .ci/run $(wildcard tests/*.sh tests/clients/*.sh tests/clients/*/*.sh docs/examples/*/*.sh bench/*.sh perf/*.sh)
MAINTAINER_SCRIPTS := $(filter-out %/changelog,$(wildcard packaging/debian/*))
SKIPPED := $(CURDIR)/target/skipped-tests.txt
PROGRAMS := ringq ringqctl
PREFIX ?= /usr/local
# What packages are made with and dependencies are looked at with, kept beside the build.
CARGO_DEB := target/tools/bin/cargo-deb
CARGO_DEB_VERSION := 3.8.0
CARGO_DENY := target/tools/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2
# What fuzz targets are built with, kept there, too.
CARGO_FUZZ := target/tools/bin/cargo-fuzz
CARGO_FUZZ_VERSION := 0.13.1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Start a server on port 22201, data in ./ringq-data; ARGS='-p 11311 -N' adds options
	$(CARGO) run $(LOCKED) --release --bin ringq -- $(ARGS)

demo: ## Open a flash sale on this machine, pages in PHP and RingQ behind them; Ctrl-C ends it
	docs/examples/flash-sale/demo.sh --check
	$(CARGO) build $(LOCKED) --release --bin ringq
	docs/examples/flash-sale/demo.sh target/release/ringq

build: man ## Build the programs, their manual pages and completions for `make install`
	$(CARGO) build $(LOCKED) --release $(addprefix --bin ,$(PROGRAMS))

man: ## Write manual pages and shell completions to target/packaging
	rm -rf target/packaging
	$(CARGO) run $(LOCKED) --quiet --features packaging --bin ringq-packaging -- target/packaging

install: ## Install what `make build` made; PREFIX=/usr/local, DESTDIR=
	for program in $(PROGRAMS); do [ -x "target/release/$$program" ] || { echo "run 'make build' first" >&2; exit 1; }; done
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(addprefix target/release/,$(PROGRAMS))
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 target/packaging/man/*.1
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/bash-completion/completions target/packaging/completions/bash/*
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions target/packaging/completions/zsh/*
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d target/packaging/completions/fish/*
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/ringq README.md CHANGELOG.md LICENSE
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/ringq/docs docs/*.md docs/ringq.toml
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/ringq/docs/decisions docs/decisions/*.md
	$(MAKE) --no-print-directory install-examples
	for kind in grafana images prometheus; do install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/ringq/docs/$$kind docs/$$kind/*; done
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system packaging/ringq.service packaging/ringq.socket
	sed -i 's|/usr/bin/ringq|$(PREFIX)/bin/ringq|' $(DESTDIR)$(PREFIX)/lib/systemd/system/ringq.service
	install -D -m 644 packaging/ringq.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/ringq.conf
	[ -e $(DESTDIR)/etc/ringq/ringq.toml ] || install -D -m 644 packaging/ringq.toml $(DESTDIR)/etc/ringq/ringq.toml
	[ -e $(DESTDIR)/etc/logrotate.d/ringq ] || install -D -m 644 packaging/ringq.logrotate $(DESTDIR)/etc/logrotate.d/ringq
	$(if $(DESTDIR),,@echo "next: systemd-sysusers; systemctl daemon-reload; systemctl enable --now ringq")

install-examples: # A part of `install`
	for kind in examples examples/flash-sale examples/flash-sale/web; do install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/ringq/docs/$$kind docs/$$kind/*.*; done
	chmod 755 $(DESTDIR)$(PREFIX)/share/doc/ringq/docs/examples/*/*.sh

uninstall: ## Remove what `make install` installed; configuration, data and user stay
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/lib/sysusers.d/ringq.conf
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/{ringq,ringqctl,ringqctl-*}.1
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/bash-completion/completions/,$(PROGRAMS))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_,$(PROGRAMS))
	rm -f $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/{ringq,ringqctl}.fish
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/ringq.{service,socket}
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/ringq

deb: man $(CARGO_DEB) ## Make the Debian package in target/debian; debug symbols in a package of their own
	rm -rf target/debian
	$(CARGO_DEB) $(LOCKED) --dbgsym

$(CARGO_DEB):
	$(CARGO) install --quiet --locked --root target/tools --version $(CARGO_DEB_VERSION) cargo-deb

audit: $(CARGO_DENY) ## Check dependencies: licences, sources, and known weaknesses where their database can be fetched
	$(CARGO_DENY) check licenses bans sources
	if $(CARGO_DENY) fetch db; then $(CARGO_DENY) check advisories; else echo "skipped: advisories, whose database cannot be fetched from here"; fi

$(CARGO_DENY):
	$(CARGO) install --quiet --locked --root target/tools --version $(CARGO_DENY_VERSION) cargo-deny

test: ## Run all tests; those whose client program is missing are named as skipped
	tests/deps.sh
	rm -f $(SKIPPED)
	status=0; \
	RINGQ_SKIPPED_FILE=$(SKIPPED) $(CARGO) test $(LOCKED) || status=$$?; \
	if [ -s $(SKIPPED) ]; then sed 's/^/skipped: /' $(SKIPPED); fi; \
	exit $$status

# Tests of which most need root and devices: named as skipped where there are none.
define run-tests
	tests/deps.sh
	rm -f $(SKIPPED)
	status=0; \
	RINGQ_SKIPPED_FILE=$(SKIPPED) $(1) $(CARGO) test $(LOCKED) --test $(2) || status=$$?; \
	if [ -s $(SKIPPED) ]; then sed 's/^/skipped: /' $(SKIPPED); fi; \
	exit $$status
endef

powercut: ## Cut the power under servers on ext4 and xfs, as root, half an hour; CUTS=200 of each kind, FS=xfs, SEED=1; RECORD= CUT= repeats one
	$(call run-tests,RINGQ_CUTS=$(or $(CUTS),200) RINGQ_FS=$(FS) RINGQ_SEED=$(or $(SEED),1) RINGQ_RECORD=$(RECORD) RINGQ_CUT=$(CUT),powercut -- --nocapture --test-threads=1 $(if $(RECORD),--ignored one_cut_again))

faults: ## Failing devices, full disks, little memory, a clock that steps, bits turned over in files; most as root, half an hour; STRIDE=1 for every byte
	$(call run-tests,RINGQ_STRIDE=$(or $(STRIDE),7),faults -- --nocapture)

soak: ## Kill a server again and again under all clients at once and judge what they saw; ROUNDS=300, SECONDS=3 of load each, SEED=0
	RINGQ_SOAK_ROUNDS=$(or $(ROUNDS),300) RINGQ_SOAK_SECONDS=$(or $(SECONDS),3) RINGQ_SEED=$(or $(SEED),0) \
		$(CARGO) test $(LOCKED) --test soak everything -- --nocapture

fuzz: $(CARGO_FUZZ) ## Look for inputs that break a promise, AddressSanitizer on; T=text, TIME=60 seconds
	tests/fuzz.sh run $(or $(T),text) $(TIME)

fuzz-list: ## List the targets of `make fuzz`
	@tests/fuzz.sh list

sanitize: ## Run the unit tests of the files with unsafe code under AddressSanitizer, some minutes
	tests/sanitize.sh

$(CARGO_FUZZ):
	$(CARGO) install --quiet --locked --root target/tools --version $(CARGO_FUZZ_VERSION) cargo-fuzz

sim: ## Play histories of a whole server with faults in virtual time: SEED=1 first, RUNS=1000 of them, or HISTORY=file
	$(if $(HISTORY),RINGQ_SIM_HISTORY=$(abspath $(HISTORY)),RINGQ_SEED=$(or $(SEED),1) RINGQ_RUNS=$(or $(RUNS),$(if $(SEED),1,1000))) \
	$(CARGO) test $(LOCKED) --test sim -- --nocapture histories_break_no_rule

sim-long: ## The same from a seed that the clock says until a rule breaks, or for so many RUNS; some 100,000 in an hour on two cores
	$(MAKE) --no-print-directory sim SEED=$(or $(SEED),$$(date +%s)000) RUNS=$(or $(RUNS),1000000000000)

sim-canary: ## See the simulator find a server that answers before its journal is written
	$(CARGO) test $(LOCKED) --test sim --features canary -- --nocapture a_server_with_a_known_bug_breaks_a_rule

screenshots: ## Draw the pictures of the dashboard in docs/images anew: a server under load, 5 minutes, Chromium
	$(CARGO) build $(LOCKED) --release $(addprefix --bin ,$(PROGRAMS))
	rm -rf target/screenshots
	python3 tests/admin/screenshots.py $(addprefix target/release/,$(PROGRAMS)) target/screenshots
	install -D -m 644 -t docs/images target/screenshots/*.png

test-package: deb ## Install, run, upgrade and purge the Debian package on a clean Debian (as root), some minutes
	tests/deps.sh --package
	tests/package.sh

ci: lint ## What continuous integration runs: lint, then all tests with every client present, then the package
	tests/deps.sh --require $(if $(filter 0,$(shell id -u)),--package)
	RINGQ_REQUIRE_CLIENTS=1 $(MAKE) --no-print-directory test
	$(MAKE) --no-print-directory sim-canary
	RINGQ_REQUIRE_CLIENTS=1 $(MAKE) --no-print-directory test-package

bench: ## Measure and judge all targets, about 40 minutes; QUICK=1 for two, ONLY=floor,depth for a part
	$(CARGO) build $(LOCKED) --release --bins
	bench/compare.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

overhead: ## Measure what seeing into the server costs: recording and a scraper, or neither; 20 alternating pairs, 4 minutes
	$(CARGO) build $(LOCKED) --release --bins
	$(CARGO) build $(LOCKED) --release --bin ringq --no-default-features --target-dir target/overhead
	bench/overhead.py target/release/ringq target/overhead/release/ringq

microbench: ## Time single steps in process and compare with the last run; ONLY=queue for a part
	$(CARGO) bench $(LOCKED) --bench micro -- $(ONLY)

flamegraph: ## Draw where CPU time goes under load; ARGS=-N, WORKLOAD='fill -c 256', NAME=before
	perf/flamegraph.sh

profile-diff: ## Draw what changed between two flame graphs: OLD=before NEW=after
	perf/flamegraph.sh diff $(or $(OLD),before) $(or $(NEW),after)

lint: ## Check formatting, code, documentation and scripts
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc $(LOCKED) --no-deps --document-private-items --lib
	for script in $(SCRIPTS) $(MAINTAINER_SCRIPTS); do bash -n "$$script"; done

fmt: ## Format the code
	$(CARGO) fmt

deps: ## Install the programs that tests use (as root; otherwise say what to install)
	tests/deps.sh

clean: ## Remove what was built; the data directory stays
	$(CARGO) clean
