# The front door. CI runs exactly `make ci`.

CARGO ?= cargo
# The end-to-end tests run this many real clusters at once, which wait as much as they work: two for each core and one more,
# at most twelve. Together they take some 2,400 s of processor time (measured with 204 tests).
TEST_CLUSTERS ?= $(shell n=$$(( 2 * $$(nproc) + 1 )); echo $$(( n < 12 ? n : 12 )))

# The commit of the last release, with whose processes those of now must work in one cluster.
LAST_RELEASE ?= a524474

# The releases of Debian after this machine's on which a short tour runs.
RELEASES ?= trixie

# The releases of Debian on which the packages are tested.
DEB_RELEASES ?= bookworm trixie

# Debian's `psql` is a script in Perl that looks for the real one, at five times the processor time. Where a client's writes
# are timed, the real one is found first.
MEASURED = PATH="$$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1):$$PATH"

# Seeds are exact only with tokio's own random choices seeded. The build is kept apart, so that this rebuilds nothing else.
SIM = RUSTFLAGS="--cfg tokio_unstable --cfg cellar_sim" $(CARGO) run --locked --quiet --profile sim --target-dir target/sim -p cellar-sim --

.PHONY: all build programs unit-tests cluster-tests tours release demo down test e2e ci fmt lint layers docs bench test-mixed test-last-release test-debian test-releases test-deb deb sim soak soak-hosts soak-failover check-availability clean deps

all: build

## deps: install what is missing (Debian packages; leaves no service running)
deps:
	@scripts/install-deps.sh

build: deps
	$(CARGO) build --locked --workspace

release: deps
	$(CARGO) build --locked --release --workspace --bins

## demo: a three-cell cluster, load, a proven backup of a named standby, a rebuild
demo: release
	@scripts/demo.sh

## down: end the demo's cluster
down:
	@scripts/demo.sh down

## test: every test
test: unit-tests cluster-tests

# Those of the crates. Some of them measure time: they run alone.
unit-tests: build
	$(CARGO) test --locked --workspace --exclude cellar-tests

# Those of whole clusters.
cluster-tests: build
	RUST_TEST_THREADS=$(TEST_CLUSTERS) $(CARGO) test --locked -p cellar-tests

fmt:
	$(CARGO) fmt --all --check

lint: deps
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@# Of a workspace of its own, so nothing else sees that its lock file is out of date: cargo update -w in fuzz.
	$(CARGO) fetch --locked --quiet --manifest-path fuzz/Cargo.toml

## docs: every public item is documented and every link leads somewhere
docs: deps
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

## ci: what a change must pass
ci: deps fmt lint docs
	$(MAKE) sim
	@# First: it leaves the last release's programs where those of now belong.
	@scripts/last-release.sh $(LAST_RELEASE)
	$(MAKE) programs
	$(MAKE) unit-tests
	@# Together: the tours wait as much as the tests do. Their lines come mixed.
	$(MAKE) -j2 --output-sync=line cluster-tests tours

# All programs and tests, so that nothing is built while tests run.
programs: build
	$(CARGO) test --locked --workspace --exclude cellar-tests --no-run
	$(CARGO) test --locked -p cellar-tests --no-run

# One after the other: each needs clusters of its own.
tours: build
	$(MAKE) test-releases
	$(MAKE) test-last-release

## test-mixed: a tour in clusters of this build and another: make test-mixed OLDER=DIRECTORY
test-mixed: release
	@scripts/mixed-versions.sh $(OLDER) target/release

## test-last-release: the tours of test-mixed with the programs of the last release, which are built once and kept
test-last-release:
	@scripts/last-release.sh $(LAST_RELEASE)
	$(CARGO) build --locked --quiet --workspace
	@scripts/mixed-versions.sh target/last-release/$(LAST_RELEASE) target/debug

## test-debian: a tour on another release of Debian, as root: make test-debian RELEASE=trixie [TESTS=all]
test-debian:
	@scripts/install-deps.sh mmdebstrap
	@scripts/test-debian.sh $(RELEASE) $(TESTS)

## test-releases: a short tour on the Debian releases after this one, as root: make test-releases [RELEASES="trixie sid"]
test-releases:
	@if [ "$$(id -u)" != 0 ]; then echo "NOT RUN: a tour on another release of Debian takes root" >&2; exit 0; fi; \
	scripts/install-deps.sh mmdebstrap && \
	for release in $(RELEASES); do scripts/test-debian.sh $$release short || exit 1; done

## deb: the Debian packages, in target/deb
deb: release
	@scripts/build-deb.sh target/release target/deb

## test-deb: install, upgrade, remove and purge the packages under systemd, as root: make test-deb [DEB_RELEASES=trixie]
test-deb: build
	@scripts/install-deps.sh mmdebstrap
	@for release in $(DEB_RELEASES); do scripts/test-deb.sh $$release || exit 1; done

## sim: simulated clusters under faults, a million steps: make sim [SECONDS=600] [SEED=9]
sim: deps
	@$(SIM) $(if $(SEED),--only --seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS))

## soak: the simulation without end, from a seed that differs each time
soak: deps
	@$(SIM) --seconds 0 --keep-going --seed $$(date +%s)000

## soak-hosts: the partition matrix over hosts without end, as root: make soak-hosts [SEED=9] [ROUNDS=20] [ONLY="db1 alone"]
soak-hosts: build
	@CELLAR_MATRIX_SEED=$(SEED) CELLAR_MATRIX_ROUNDS=$(ROUNDS) CELLAR_MATRIX_ONLY="$(ONLY)" \
		$(CARGO) test --locked -p cellar-tests --test hosts -- --ignored --nocapture the_whole_matrix

## soak-failover: random failovers under load, with a histogram: make soak-failover [N=300] [SEED=9] [ONLY=frozen]
soak-failover: release
	@$(MEASURED) target/release/soak-failover --count $(or $(N),300) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

## check-availability: the failover protocol, explored within wider bounds than the tests do; takes minutes and some GiB
check-availability: deps
	$(CARGO) test --locked -p cellar-availability-check -- --ignored --nocapture

## bench: one line per figure, release build; Patroni is compared with, and is installed for it
bench: release
	@scripts/install-deps.sh patroni
	@$(MEASURED) $(CARGO) run --locked --release --quiet -p cellar-tests --bin bench

clean:
	$(CARGO) clean
